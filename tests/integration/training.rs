//! From glyphs to the report, with a training of a few steps.

use std::fs;

use super::Home;

fn tiny(more: &[&str]) -> Home {
    let settings = ["raw.source=synthetic", "plan.samples_per_class=6", "train.model=fcn", "train.epochs=2"];
    let size = ["train.samples=64", "train.batch_size=32", "evaluate.samples=40"];
    Home::with(&[&settings[..], &size[..], more].concat())
}

#[test]
fn the_whole_pipeline_runs_and_is_fresh_afterwards() {
    let home = tiny(&[]);
    let first = home.ok(&["run"]);
    assert_eq!(first.matches(" done ").count(), 7, "{first}");
    let run = home.path("artifacts/train/fcn-lr0.0005-seed0");
    let metrics = fs::read_to_string(run.join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 3, "{metrics}");
    for weights in ["weights/best.safetensors", "weights/last.safetensors"] {
        assert!(run.join(weights).exists(), "{weights}");
    }
    let page = fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    for words in ["fcn-lr0.0005-seed0", "Synthetic glyphs", "data:image/svg+xml", "DoubleMNIST"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(home.path("artifacts/report/figures/preview-augment.png").exists());
    let second = home.ok(&["run"]);
    assert_eq!(second.matches(" fresh ").count(), 7, "{second}");
    home.ok(&["verify"]);
}

#[test]
fn a_second_model_gets_a_folder_of_its_own_and_joins_the_report() {
    let home = tiny(&["train.augment=false"]);
    home.ok(&["run"]);
    home.ok(&["run", "--set", "train.seed=1"]);
    let page = fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    assert!(page.contains("fcn-lr0.0005-seed0") && page.contains("fcn-lr0.0005-seed1"));
    assert!(home.ok(&["status"]).contains("train     fresh "), "the first run stands");
}

#[test]
fn training_on_stored_epochs_equals_training_in_flight() {
    let [stored, in_flight] = [tiny(&["augment.epochs=2"]), tiny(&["augment.epochs=0"])];
    let weights = [&stored, &in_flight].map(|home| {
        home.ok(&["run", "train"]);
        fs::read(home.path("artifacts/train/fcn-lr0.0005-seed0/weights/last.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1]);
}

#[test]
fn settings_that_the_network_cannot_take_are_refused_before_any_work() {
    let home = tiny(&["plan.image_size=[28, 56]", "train.model=alexnet"]);
    let answer = home.call(&["run"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(!home.path("artifacts").exists());
}
