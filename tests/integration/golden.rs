//! Compares the SHA-256 of the pixels of each class in the reference generator's output with the shards that the
//! program writes. Needs the official MNIST files.

use std::collections::BTreeMap;
use std::path::Path;

use multidigit::shards::{DATA, Shards};
use sha2::{Digest, Sha256};

use super::{Answer, bare, mnist};

/// The digest for each split and class in a golden file.
fn golden(name: &str) -> BTreeMap<(String, String), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().skip(1).map(|line| {
        let fields: Vec<&str> = line.split(',').collect();
        ((fields[0].to_owned(), fields[1].to_owned()), fields[3].to_owned())
    });
    rows.collect()
}

/// The digest for each split and class of the decoded shards in a folder.
fn shards(dataset: &Path) -> BTreeMap<(String, String), String> {
    let mut all = BTreeMap::new();
    for split in ["train", "val", "test"] {
        let shards = Shards::open(&dataset.join(DATA), split).unwrap();
        let area = shards.layout().height * shards.layout().width;
        let mut classes: BTreeMap<i64, BTreeMap<i64, Vec<u8>>> = BTreeMap::new();
        for position in shards.positions() {
            let samples = shards.read(position).unwrap();
            for (row, pixels) in samples.images.chunks_exact(area).enumerate() {
                let twin = classes.entry(samples.labels[row]).or_default().insert(samples.index[row], pixels.to_vec());
                assert_eq!(twin, None, "an index occurs once in its class");
            }
        }
        for (label, images) in classes {
            let mut hasher = Sha256::new();
            images.values().for_each(|pixels| hasher.update(pixels));
            let digest = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            all.insert((split.to_owned(), shards.layout().class_name(label)), digest);
        }
    }
    all
}

fn equals_golden(name: &str, classes: usize, settings: &[&str]) {
    let Some(raw) = mnist(name) else { return };
    let home = tempfile::tempdir().unwrap();
    let mut command = bare(home.path());
    command.args(["run", "dataset"]).arg("--raw").arg(raw);
    settings.iter().for_each(|setting| {
        command.args(["--set", setting]);
    });
    let answer = Answer::of(command.output().unwrap());
    assert_eq!(answer.code, Some(0), "{}", answer.stderr);
    let expected = golden(name);
    assert_eq!(expected.len(), classes);
    assert_eq!(shards(&home.path().join("artifacts/dataset")), expected);
}

#[test]
fn double_mnist_is_the_reference_generators() {
    equals_golden("double_seed123_n1000.csv", 100, &[]);
}

#[test]
fn another_seed_and_count_are_the_reference_generators() {
    equals_golden("double_seed7_n20.csv", 100, &["plan.seed=7", "plan.samples_per_class=20"]);
}

#[test]
fn three_digits_in_a_wide_image_are_the_reference_generators() {
    let settings = ["plan.seed=5", "plan.samples_per_class=1", "plan.digits=3", "plan.image_size=[64, 100]"];
    equals_golden("triple_seed5_n1_64x100.csv", 1000, &settings);
}
