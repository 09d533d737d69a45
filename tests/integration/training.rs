//! Tests of the pipeline from glyphs to the report, with a training of a few steps.

use std::fs;
use std::io::Write;

use candle_core::Device;
use multidigit::config::Config;
use multidigit::networks::weights;
use multidigit_nn::Precision;

use super::Home;

fn tiny(more: &[&str]) -> Home {
    let settings = ["raw.source=synthetic", "plan.samples_per_class=6", "train.model=fcn", "train.epochs=2"];
    let size = ["train.samples=64", "train.batch_size=32", "evaluate.samples=40", "train.run=tiny"];
    Home::with(&[&settings[..], &size[..], more].concat())
}

#[test]
fn the_whole_pipeline_runs_and_is_fresh_afterwards() {
    let home = tiny(&[]);
    let first = home.ok(&["run", "train", "evaluate", "report"]);
    assert_eq!(first.matches(" done ").count(), 7, "{first}");
    let run = home.path("artifacts/train/tiny");
    let metrics = fs::read_to_string(run.join("metrics.csv")).unwrap();
    assert_eq!(metrics.lines().count(), 3, "{metrics}");
    for weights in ["weights/best.safetensors", "weights/last.safetensors"] {
        assert!(run.join(weights).exists(), "{weights}");
    }
    let page = fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    for words in ["tiny", "Synthetic glyphs", "data:image/svg+xml", "DoubleSynthetic"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(home.path("artifacts/report/figures/preview-augment.png").exists());
    let second = home.ok(&["run", "train", "evaluate", "report"]);
    assert_eq!(second.matches(" fresh ").count(), 7, "{second}");
    home.ok(&["verify"]);
}

#[test]
fn a_run_of_other_settings_gets_a_folder_of_its_own_and_joins_the_report() {
    let home = tiny(&["train.augment=false", "train.run="]);
    let all = ["run", "train", "evaluate", "report"];
    home.ok(&all);
    home.ok(&[&all[..], &["--set", "train.seed=1"]].concat());
    home.ok(&[&all[..], &["--set", "train.batch_size=16"]].concat());
    let listed = home.ok(&["runs"]);
    let names: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    let page = fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    assert!(names.len() == 3 && names.iter().all(|name| page.contains(&format!("id=\"run-{name}\""))), "{listed}");
    assert!(home.ok(&["status"]).contains("train     fresh "), "the first run stands");
}

#[test]
fn a_training_validates_on_as_many_images_as_it_is_told() {
    let home = tiny(&["train.augment=false"]);
    home.ok(&["run", "train"]);
    home.ok(&["run", "train", "evaluate", "--set", "train.val_samples=40", "--set", "train.run=few"]);
    let runs: serde_json::Value = serde_json::from_str(&home.ok(&["runs", "--run", "few", "--json"])).unwrap();
    let file = home.path("artifacts/evaluate/few/metrics.json");
    let metrics: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    // the evaluation takes the first 40 images, too
    assert_eq!(metrics["splits"][0]["samples"], 40);
    assert_eq!(metrics["splits"][0]["accuracy"]["value"], runs[0]["best_val_accuracy"]);
    // a run from before the setting has it in no file, and is still fresh and read in the same way
    let read = |file: &str| fs::read_to_string(home.path("artifacts/train/tiny").join(file)).unwrap();
    assert!(!read("record.json").contains("val_samples"));
    let written = read("config.yaml");
    let before: String = written.split_inclusive('\n').filter(|line| !line.contains("val_samples: ")).collect();
    assert!(before.len() < written.len());
    assert_eq!(Config::parse(&before, "config.yaml").unwrap(), Config::parse(&written, "config.yaml").unwrap());
}

#[test]
fn the_average_of_the_weights_is_evaluated_and_verified_where_a_run_has_one() {
    let home = tiny(&["train.augment=false"]);
    let with = ["--set", "train.ema=0.5", "--set", "evaluate.weights=ema"];
    home.ok(&[&["run", "train", "evaluate"][..], &with].concat());
    let metrics: serde_json::Value =
        serde_json::from_slice(&fs::read(home.path("artifacts/evaluate/tiny/metrics.json")).unwrap()).unwrap();
    assert_eq!(metrics["weights"], "ema");
    home.ok(&[&["verify"][..], &with].concat());
    let named = home.ok(&["run", "evaluate", "--run", "tiny", "--set", "evaluate.weights=ema"]);
    assert!(named.contains("evaluate  fresh "), "{named}");
    let file = home.path("artifacts/train/tiny/weights/ema.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&file, bytes).unwrap();
    assert_eq!(home.call(&[&["verify"][..], &with].concat()).code, Some(1));

    let refused = home.call(&["run", "evaluate", "--set", "evaluate.weights=ema"]);
    let message = "error: `evaluate.weights`: found ema; expected best or last, as the run has no average; `train.ema` \
                   makes one in training\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (Some(2), message));
}

#[test]
fn a_training_in_bfloat16_says_so_or_names_what_the_processor_lacks() {
    let home = tiny(&["train.augment=false"]);
    let narrow = ["--set", "train.precision=bf16", "--set", "evaluate.precision=bf16"];
    let all = [&["run", "train", "evaluate", "report"][..], &narrow].concat();
    if Precision::Bf16.on_cpu().is_none() {
        let _ = writeln!(
            std::io::stderr(),
            "training in bfloat16: skipped, as this processor has no instructions for it; the refusal is tested"
        );
        let refused = home.call(&all);
        let message = "error: `train.precision`: found bf16; expected f32, as this processor has no instructions for bfloat16 \
                       (AMX or AVX512-BF16)\n";
        assert_eq!((refused.code, refused.stderr.as_str()), (Some(2), message));
        assert!(!home.path("artifacts").exists());
        return;
    }
    home.ok(&all);
    let read = |file: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(home.path("artifacts").join(file)).unwrap()).unwrap()
    };
    let products = read("train/tiny/env.json")["products"].clone();
    let by = Precision::Bf16.on_cpu().unwrap();
    assert_eq!(products, by.as_str());
    assert_eq!(read("evaluate/tiny/metrics.json")["precision"], "bf16");
    let page = fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    assert!(page.contains(&by) && page.contains(", in bf16"));
    home.ok(&[&["verify"][..], &narrow].concat());
    // the same weights in float32 are another evaluation
    let wide = home.ok(&["run", "evaluate", "--set", "train.precision=bf16"]);
    assert!(wide.contains("evaluate  done "), "{wide}");
    let metrics = read("evaluate/tiny/metrics.json");
    assert!(metrics.get("precision").is_none(), "{metrics}");
}

#[test]
fn a_run_starts_from_the_weights_of_another_which_are_an_input_of_it() {
    let home = tiny(&["train.augment=false"]);
    home.ok(&["run", "train"]);
    // a rate that changes no parameter shows what the run started from
    let second = ["run", "train", "--set", "train.run=second", "--set", "train.learning_rate=1e-30"];
    let init = |from: &'static str| [&second[..], &["--set", from]].concat();
    let from_run = init("train.init=tiny");
    home.ok(&from_run);
    let parameters = |file: &str| -> Vec<Vec<f32>> {
        let (network, _) = weights::load(&home.path(file), None, &Device::Cpu, Precision::F32).unwrap();
        let all = network.store().parameters().iter();
        all.map(|(_, var)| var.flatten_all().unwrap().to_vec1().unwrap()).collect()
    };
    let first = parameters("artifacts/train/tiny/weights/best.safetensors");
    assert!(parameters("artifacts/train/second/weights/last.safetensors") == first);
    assert!(home.ok(&from_run).contains("train     fresh "));
    home.ok(&["verify", "--set", "train.run=second", "--set", "train.learning_rate=1e-30", "--set", "train.init=tiny"]);

    fs::copy(home.path("artifacts/train/tiny/weights/best.safetensors"), home.path("mine.safetensors")).unwrap();
    let same = home.ok(&init("train.init=mine.safetensors"));
    assert!(same.contains("train     fresh "), "the content is the same, wherever the file stands: {same}");
    fs::copy(home.path("artifacts/train/second/weights/last.safetensors"), home.path("mine.safetensors")).unwrap();
    let other = home.call(&init("train.init=mine.safetensors"));
    assert!(other.code == Some(2) || other.code == Some(1), "{}", other.stderr);
    assert!(other.stderr.contains("init"), "{}", other.stderr);

    let absent = home.call(&init("train.init=absent"));
    assert!(absent.stderr.ends_with("no run absent stands here; expected one of second, tiny\n"), "{}", absent.stderr);
    let absent = home.call(&init("train.init=absent.safetensors"));
    assert!(absent.stderr.starts_with("error: `absent.safetensors`: "), "{}", absent.stderr);

    // what belongs to one digit cannot come from a network for another number of digits, and the user is told
    let message = "starting from the weights in artifacts/train/tiny/weights/best.safetensors, except ";
    let one = ["plan.digits=1", "plan.samples_per_class=20", "train.run=one"];
    let sets = one.iter().flat_map(|setting| ["--set", setting]).collect::<Vec<_>>();
    let other = home.call(&[&["run", "train", "--set", "train.init=tiny"][..], &sets].concat());
    assert_eq!(other.code, Some(0), "{}", other.stderr);
    let told = format!("{}{}", other.stdout, other.stderr);
    assert!(told.contains(message) && told.contains(", which are random"), "{told}");
}

#[test]
fn training_on_stored_epochs_equals_training_in_flight() {
    stored_equals_in_flight(&[]);
    // an exchange takes digits from all images
    stored_equals_in_flight(&[
        "augment.by=slot",
        "augment.exchange=free",
        "train.samples=null",
        "train.batch_size=160",
    ]);
}

fn stored_equals_in_flight(settings: &[&str]) {
    let [stored, in_flight] =
        ["augment.epochs=2", "augment.epochs=0"].map(|epochs| tiny(&[settings, &[epochs]].concat()));
    let weights = [&stored, &in_flight].map(|home| {
        home.ok(&["run", "train"]);
        fs::read(home.path("artifacts/train/tiny/weights/last.safetensors")).unwrap()
    });
    assert!(weights[0] == weights[1]);
}

#[test]
fn settings_that_the_network_cannot_take_are_refused_before_any_work() {
    let home = tiny(&["plan.image_size=[28, 56]", "train.model=alexnet"]);
    let answer = home.call(&["run", "train"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
    assert!(!home.path("artifacts").exists());
}

#[test]
fn training_without_augmentation_does_not_depend_on_it() {
    let home = tiny(&["train.augment=false"]);
    let first = home.ok(&["run", "train"]);
    assert!(!first.contains("augment "), "{first}");
    let status = home.ok(&["status", "--set", "augment.seed=1"]);
    assert!(status.contains("train     fresh "), "{status}");
}

#[test]
fn more_stored_epochs_leave_a_trained_run_fresh() {
    let home = tiny(&[]);
    home.ok(&["run", "train"]);
    let more = home.ok(&["run", "train", "--set", "augment.epochs=2"]);
    assert!(more.contains("augment   done ") && more.contains("train     fresh "), "{more}");
}

#[test]
fn the_report_shows_runs_of_its_own_data_with_evaluations_of_their_own_weights() {
    let home = tiny(&["train.augment=false"]);
    let run = |words: &[&str], settings: &[&str]| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        home.ok(&["run"].iter().chain(words).copied().chain(settings).collect::<Vec<_>>())
    };
    let all = ["train", "evaluate", "report"];
    run(&all, &["train.run=old"]);
    run(&all, &["train.run=new", "plan.seed=4"]);
    let page = || fs::read_to_string(home.path("artifacts/report/index.html")).unwrap();
    assert!(page().contains("id=\"run-new\"") && !page().contains("id=\"run-old\""));
    assert!(page().contains("<p>1 of 2 runs is left out, ") && page().contains("</code>: old. "));
    // the run is trained again, but not evaluated again
    run(&["train", "--force"], &["train.run=new", "plan.seed=4", "train.seed=5"]);
    run(&all, &["train.run=third", "plan.seed=4"]);
    let section = page().split("id=\"run-new\"").nth(1).unwrap().split("</section>").next().unwrap().to_owned();
    assert!(section.contains("Not evaluated yet, or not with the weights that stand."), "{section}");
}
