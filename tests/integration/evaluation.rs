//! Tests of evaluation and prediction through the program: on the data set, on other files, on images.

use std::fs;
use std::path::PathBuf;

use super::Home;

/// A home with the settings of the run `short`, which trains a small network with one head.
fn one_digit() -> Home {
    let data = ["raw.source=synthetic", "plan.digits=1", "plan.image_size=[28,28]", "plan.samples_per_class=10"];
    let train = ["plan.split.by=sample", "train.model=resnet", "train.epochs=1", "train.batch_size=20"];
    Home::with(&[&data[..], &train[..], &["train.augment=false", "train.run=short"]].concat())
}

#[test]
fn an_evaluation_on_other_files_stands_beside_the_one_on_the_data_set() {
    let home = one_digit();
    home.ok(&["run", "evaluate"]);
    let own = fs::read(home.path("artifacts/evaluate/short/metrics.json")).unwrap();
    fs::create_dir(home.path("other")).unwrap();
    let file = home.path("other/test-00000-of-00001.parquet");
    fs::copy(home.path("artifacts/dataset/data/test-00000-of-00001.parquet"), &file).unwrap();
    let on_other = ["--set", "evaluate.data=other"];
    let first = home.ok(&[&["run", "evaluate"][..], &on_other].concat());
    assert!(first.contains("evaluate  done       30 predictions"), "{first}");
    assert_eq!(fs::read(home.path("artifacts/evaluate/short/metrics.json")).unwrap(), own);
    let named = |name: &str| -> Vec<PathBuf> {
        let mut all = multidigit::files::entries(&home.path("artifacts/evaluate")).unwrap();
        all.retain(|path| path.is_dir() && path.file_name().unwrap().to_str().unwrap().starts_with(name));
        all
    };
    let [folder] = &named("short@other-")[..] else { panic!("one evaluation of other data") };
    let metrics = fs::read(folder.join("metrics.json")).unwrap();
    let second = home.ok(&[&["run", "evaluate"][..], &on_other].concat());
    assert!(second.contains("evaluate  fresh "), "{second}");
    // other content under the same name, and the same file name in another folder
    fs::copy(home.path("artifacts/dataset/data/val-00000-of-00001.parquet"), &file).unwrap();
    let third = home.ok(&[&["run", "evaluate"][..], &on_other].concat());
    assert!(third.contains("evaluate  done "), "{third}");
    assert_eq!(named("short@other-").len(), 2);
    assert_eq!(fs::read(folder.join("metrics.json")).unwrap(), metrics, "the first result stands");
    fs::remove_file(&file).unwrap();
    let status = home.ok(&[&["status"][..], &on_other].concat());
    assert!(status.contains("evaluate  stale  has not run yet"), "{status}");
    let refused = home.call(&[&["run", "evaluate"][..], &on_other].concat());
    assert!(refused.stderr.contains("`other`: no Parquet files of any split but train"), "{}", refused.stderr);
    home.ok(&["verify"]);
}

#[test]
fn predict_says_what_it_sees_and_names_what_it_cannot_look_at() {
    let home = one_digit();
    let none = home.call(&["predict", "a.png"]);
    assert_eq!(none.code, Some(1));
    let expected =
        "no run short stands here; expected a trained run, and there is none; `multidigit run train` makes one\n";
    assert!(none.stderr.ends_with(expected), "{}", none.stderr);
    home.ok(&["run", "train"]);
    let save = |name: &str, image: image::DynamicImage| image.save(home.path(name)).unwrap();
    save("dark.png", image::GrayImage::from_pixel(28, 28, image::Luma([5])).into());
    save("light.png", image::GrayImage::from_pixel(28, 28, image::Luma([250])).into());
    save("wide.png", image::GrayImage::new(29, 28).into());
    save("red.png", image::RgbImage::new(28, 28).into());
    let told = home.call(&["predict", "dark.png", "light.png", "--run", "short"]);
    assert_eq!((told.code, told.stdout.lines().count()), (Some(0), 3), "{}", told.stderr);
    assert!(told.stdout.starts_with("image      digits  probability    each digit\n"), "{}", told.stdout);
    let warning = "warning: `light.png`: dark digits on light ground? the network knows light ones on black\n";
    assert_eq!(told.stderr, warning);
    let answers: serde_json::Value = serde_json::from_str(&home.ok(&["predict", "dark.png", "--json"])).unwrap();
    let odds = answers[0]["positions"][0]["probabilities"].as_array().unwrap();
    let largest = odds.iter().map(|p| p.as_f64().unwrap()).fold(0.0, f64::max);
    assert!((answers[0]["probability"].as_f64().unwrap() - largest).abs() < 1e-12 && odds.len() == 10);
    let refusal = |arguments: &[&str]| {
        let answer = home.call(&[&["predict"], arguments].concat());
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
        answer.stderr
    };
    let expected = "expected a PNG of 28x28 pixels (height x width) in 8-bit grey, as the network was trained on";
    assert!(
        refusal(&["wide.png"])
            .starts_with(&format!("error: `wide.png`: a PNG of 28x29 pixels in 8-bit grey; {expected}"))
    );
    let convert = "convert it: magick 'red.png' -colorspace Gray -depth 8 -resize '28x28!' converted.png\n";
    assert!(refusal(&["red.png"]).ends_with(convert));

    // weights by their path, pictures by their folder and on standard input; a bad picture does not concern the others
    let of_run = home.ok(&["predict", "dark.png"]);
    for path in ["artifacts/train/short", "artifacts/train/short/weights/best.safetensors"] {
        assert_eq!(home.ok(&["predict", "dark.png", "--run", path]), of_run);
    }
    let message = "error: `artifacts/none`: no such file or folder; expected a .safetensors file of weights, or the folder \
                   of a run\n";
    assert_eq!(refusal(&["dark.png", "--run", "artifacts/none"]), message);
    let mixed = home.call(&["predict", "."]);
    assert_eq!(mixed.code, Some(1));
    let names: Vec<&str> = mixed.stdout.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["./dark.png", "./light.png"]);
    assert!(mixed.stderr.contains("error: `./red.png`: ") && mixed.stderr.contains("error: `./wide.png`: "));
    assert!(refusal(&["artifacts"]).starts_with("error: `artifacts`: a folder without PNG files"));
    let mut command = home.command(&["predict", "-"]);
    let output = command.stdin(fs::File::open(home.path("dark.png")).unwrap()).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(
        told.lines().nth(1).unwrap().trim_start_matches('-').trim_start(),
        of_run.lines().nth(1).unwrap().trim_start_matches("dark.png").trim_start()
    );
    assert!(
        refusal(&["dark.png", "--run", "long"])
            .ends_with("`artifacts/train`: no run long stands here; expected one of short\n")
    );
    assert_eq!(home.call(&["predict"]).code, Some(2), "nothing to look at");
}
