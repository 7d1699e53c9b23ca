"""Files that users give, with anything in them (tests/hostile.py): no traceback, and nothing written elsewhere."""

import json
from collections import Counter
from dataclasses import asdict

from hostile import ANY, CELLS, NAMES, TEXTS, as_json, changed, damaged, hostile, place, tables, told
from hypothesis import given
from hypothesis import strategies as st

from dfdc import folds, layout
from dfdc.boxes import read_boxes
from dfdc.layout import load_dataset
from dfdc.rejections import load_rejections
from networks.files import find_models
from prediction import folder
from prediction.inputs import held_out_inputs, list_inputs, read_labels
from prediction.json_file import read_json_file
from prediction.progress import Progress
from prediction.results import Submission, Summary, write_results
from prediction.settings import Floors, FolderSettings, RunSettings
from prediction.verdict import Face, Status, Verdict
from preprocessing.crop_step import CropStep
from training.config import TrainConfig, flatten, load_config, parse_changes
from training.dataset import read_folds, split_folds

# -------------------------------------------------------------------------------------------------- metadata.json
ENTRY = st.fixed_dictionaries(
    {"label": st.sampled_from(["REAL", "FAKE"])}, optional={"original": NAMES, "donor": NAMES, "split": TEXTS}
)
METADATA = changed(st.dictionaries(NAMES, ENTRY, max_size=5))


@hostile
@given(data=damaged(as_json(METADATA)), more=damaged(as_json(METADATA)))
def test_metadata(data, more):
    with place() as root:
        for part, content in (("part_1", data), ("part_2", more)):
            (root / part).mkdir()
            (root / part / layout.METADATA_NAME).write_bytes(content)
            for name in ("a.mp4", "b.mp4", "é.mp4"):
                (root / part / name).touch()
        dataset = told(lambda: load_dataset(root))
        if dataset is None:
            return
        for video in [*dataset.videos.values(), *(lost.video for lost in dataset.skipped.values())]:
            assert video.path.parent.parent == root
            for path in (layout.bboxes_path(root, video.id), layout.bboxes_path(root, video.source)):
                assert path.parent == root / "bboxes"
            for of in (layout.crops_path, layout.landmarks_path, layout.diffs_path):
                assert of(root, video.id).parent.parent == root


# ---------------------------------------------------------------------------------------------------------- boxes
BOXES = st.fixed_dictionaries(
    {
        "video": NAMES,
        "width": st.just(96),
        "height": st.just(64),
        "frame_count": st.just(40),
        "rate": st.floats(0, 60),
        "duration": st.floats(0, 9),
        "times": st.dictionaries(st.sampled_from(["0", "10", "-1", "9999999999999999999999"]), st.floats(), max_size=3),
        "source": st.just({"size": 1, "mtime_ns": 1, "xxh3": "0"}),
        "settings": st.just({"version": 1}),
        "made": st.just({"frames": 1}),
        "failed": st.none() | TEXTS,
        "notes": st.lists(TEXTS, max_size=2),
        "frames": st.dictionaries(
            st.sampled_from(["0", "10", "20", "-10", "99999999999999999999"]),
            st.lists(
                st.fixed_dictionaries(
                    {
                        "face": st.integers(0, 3),
                        "box": st.lists(st.floats(width=32), min_size=4, max_size=4),
                        "score": st.floats(0, 1),
                    }
                ),
                max_size=2,
            ),
            max_size=3,
        ),
    }
)


@hostile
@given(data=damaged(as_json(changed(BOXES))))
def test_boxes(data):
    with place() as root:
        (root / "bboxes").mkdir()
        (root / "bboxes/a.json").write_bytes(data)
        video = layout.Video("a", root / "part/a.mp4", "part", layout.REAL, None)
        boxes = told(lambda: read_boxes(layout.bboxes_path(root, "a")))
        if boxes is not None:
            told(lambda: CropStep(root, layout.CROPS_DIR).boxes_digest(video))


# ------------------------------------------------------------------------------------------------------ folds.csv
ROW = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["0_0.png", "10_0.png"]),
    st.sampled_from(["0", "1"]),
    st.sampled_from(["a", "c"]),
    st.sampled_from(["0", "10"]),
    st.sampled_from(["0", "1"]),
).map(list)


@hostile
@given(data=damaged(tables(folds.COLUMNS, ROW)), fold=st.integers(-1, 2))
def test_folds(data, fold):
    with place() as root:
        (root / "part").mkdir()
        (root / "part" / layout.METADATA_NAME).write_text('{"a.mp4": {"label": "REAL"}}')
        (root / "part/a.mp4").touch()
        path = root / layout.FOLDS_NAME
        path.write_bytes(data)
        told(lambda: folds.read_distinct(path))
        told(lambda: held_out_inputs([root], fold))
        if (table := told(lambda: read_folds(path))) is not None:
            told(lambda: split_folds(table, fold, path))


# -------------------------------------------------------------------------------------------------- configurations
CONFIG = st.just(json.loads(TrainConfig().model_dump_json()))
CHANGE = st.builds(
    "{}={}".format, st.sampled_from([*flatten(TrainConfig().model_dump()), "base", "a.b", ""]) | TEXTS, TEXTS
)


@hostile
@given(
    data=damaged(as_json(changed(CONFIG))),
    base=st.none() | TEXTS | st.sampled_from(["own.json", "other.json", ".", "../.."]),
    changes=st.lists(CHANGE | as_json(ANY).map("epochs={}".format), max_size=2),
)
def test_configurations(data, base, changes):
    with place() as root:
        (root / "other.json").write_bytes(data)
        (root / "own.json").write_text(json.dumps({"epochs": 3} | ({} if base is None else {"base": base})))
        asked = told(lambda: parse_changes(changes))
        for path in (root / "own.json", root / "other.json"):
            told(lambda path=path: load_config(path, asked))


# ------------------------------------------------------------------------------------------ labels, lists, rejections
LABEL = st.sampled_from(["REAL", "FAKE", "0", "1", "fake", "1.0"])


@hostile
@given(
    data=damaged(
        as_json(changed(st.dictionaries(NAMES, st.fixed_dictionaries({"label": LABEL}), max_size=4)))
        | tables(("filename", "label"), st.tuples(NAMES, LABEL).map(list))
    ),
    suffix=st.sampled_from([".json", ".csv"]),
)
def test_labels(data, suffix):
    with place() as root:
        path = root / f"labels{suffix}"
        path.write_bytes(data)
        labels = told(lambda: read_labels(path, {"a.mp4": root / "a.mp4", "b.mp4": root / "b.mp4"}))
        assert labels is None or (labels.keys() <= {"a.mp4", "b.mp4"} and {*labels.values()} <= {0, 1})


@hostile
@given(data=damaged(st.lists(NAMES, max_size=5).map("\n".join)))
def test_lists(data):
    with place() as root:
        for name in ("a.mp4", "b.mp4", "é.mp4"):
            (root / name).touch()
        path = root / "list.txt"
        path.write_bytes(data)
        told(lambda: list_inputs([], [path]))
        told(lambda: find_models(root, [f"@{path}"]))


REJECTED = ("video", "frame", "face", "reason")


@hostile
@given(data=damaged(tables(REJECTED, st.tuples(NAMES, CELLS, CELLS, TEXTS).map(list))))
def test_rejections(data):
    with place() as root:
        (root / layout.REJECTED_NAME).write_bytes(data)
        told(lambda: load_rejections(root))


# ------------------------------------------------------------------------------------- progress files, submissions
BOX = [1.0, 2.0, 30.0, 40.0]
VERDICT = Verdict("a.mp4", Status.OK, frame_count=40, frames_read=2, sizes=[[0, 96, 64]])
VERDICT.faces = [Face(0, 0, BOX, 0.99, 1.0, [0.25]), Face(10, 1, BOX, 0.99, 1.0, [0.75])]
RUN = RunSettings([], 32, "auto", 3, "confident", Floors(), "fp32", (0.6, 0.7, 0.7))


@hostile
@given(
    rows=st.lists(changed(st.just(asdict(VERDICT))), min_size=1, max_size=3),
    noise=st.lists(as_json(ANY), max_size=2),
    own_header=st.integers(0, 4),
    cut=st.integers(0, 300),
)
def test_progress_files_and_submissions(rows, noise, own_header, cut):
    with place() as root:
        videos = {"a.mp4": root / "a.mp4", "b.mp4": root / "b.mp4"}
        for path in videos.values():
            path.write_bytes(b"video")
        path = root / "out.csv.progress"
        first = Progress(path, {"models": ["m"]}, videos)  # writes a header, and knows the file's fingerprint
        first.begin("b.mp4")
        first.add(Verdict("b.mp4", Status.NO_FACE))
        header, line = path.read_text().splitlines()
        row = json.loads(line)
        lines = [json.dumps({**row, "verdict": verdict}) for verdict in rows] + noise
        text = "\n".join([header if own_header else json.dumps(rows), *lines]) + "\n"
        path.write_bytes(text.encode("utf-8", "surrogatepass")[: -cut or None])

        def go_on():
            progress = Progress(path, {"models": ["m"]}, videos)
            folder._conclude_again(progress, ["m"], FolderSettings())
            for name in videos.keys() - progress.done.keys():
                progress.begin(name)
                progress.add(Verdict(name, Status.NO_FACE))
            verdicts = [progress.done[name] for name in videos]
            statuses = dict(Counter(verdict.status for verdict in verdicts))
            write_results(root / "out.csv", verdicts, RUN, Summary(statuses, {}))
            return verdicts

        verdicts = told(go_on)
        assert verdicts is not None, "a broken progress file must not end a run"
        assert [verdict.filename for verdict in verdicts] == [*videos]
        found = told(lambda: read_json_file(root / "out.json", Submission))
        assert found is not None
