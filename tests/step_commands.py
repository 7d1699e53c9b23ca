"""The commands of steps 1 to 4, called in this process."""

from preprocessing import detect_original_faces, extract_crops, generate_diffs, generate_landmarks

STEPS = {
    "detect_original_faces": detect_original_faces,
    "extract_crops": extract_crops,
    "generate_landmarks": generate_landmarks,
    "generate_diffs": generate_diffs,
}

FOLDERS = {
    "detect_original_faces": "bboxes",
    "extract_crops": "crops",
    "generate_landmarks": "landmarks",
    "generate_diffs": "diffs",
}


def run(name, root, *flags):
    return STEPS[name].main(["--root-dir", str(root), *map(str, flags)])
