//! Tests that the report, the list of runs and the model cards agree, and what they show if there is little data.

use std::fs;
use std::path::Path;

use multidigit::evaluate::forward::Predictions;
use multidigit::evaluate::metrics::VERSION;
use multidigit::evaluate::{self, Metrics, SplitMetrics};
use multidigit::networks::Model;
use multidigit::plan::table;
use multidigit::runs::{Place, Run, card};
use multidigit::shards::Shards;
use multidigit::train::metrics::Epoch;
use multidigit::{augment, report, train};
use multidigit_nn::Precision;
use serde_json::{Value, json};

use super::Home;

fn tiny() -> Home {
    let data = ["raw.source=synthetic", "plan.samples_per_class=6", "train.augment=false"];
    let train = ["train.model=fcn", "train.epochs=1", "train.samples=64", "train.batch_size=32", "train.run=short"];
    Home::with(&[&data[..], &train].concat())
}

fn page(home: &Home) -> String {
    fs::read_to_string(home.path("artifacts/report/index.html")).unwrap()
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A table of the report: the cells of its lines, none of which contains a comma.
fn csv(home: &Home, name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(home.path(&format!("artifacts/report/tables/{name}.csv"))).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn report_runs_card_and_metrics_show_the_same_numbers() {
    let home = tiny();
    home.ok(&["run", "train", "evaluate", "report"]);
    let metrics = read_json(&home.path("artifacts/evaluate/short/metrics.json"));
    let epochs = fs::read_to_string(home.path("artifacts/train/short/metrics.csv")).unwrap();
    let (header, row) = (epochs.lines().next().unwrap(), epochs.lines().nth(1).unwrap());
    let epoch = |name: &str| -> f64 {
        let at = header.split(',').position(|column| column == name).unwrap();
        row.split(',').nth(at).unwrap().parse().unwrap()
    };
    let test = &metrics["splits"][1];
    let number = |value: &Value| value.as_f64().unwrap();

    let runs: Value = serde_json::from_str(&home.ok(&["runs", "--json"])).unwrap();
    let run = &runs[0];
    assert_eq!(
        (run["run"].as_str(), run["state"].as_str(), run["epochs"].as_u64()),
        (Some("short"), Some("finished"), Some(1))
    );
    assert_eq!(run["test_accuracy"], test["accuracy"]);
    assert_eq!(run["test_loss"], test["loss"]);
    assert_eq!(number(&run["best_val_accuracy"]), epoch("val_accuracy"));
    assert_eq!(number(&run["train_loss"]), epoch("train_loss"));
    // both stages measure the best weights on the whole validation split
    assert_eq!(run["best_val_accuracy"], metrics["splits"][0]["accuracy"]["value"]);

    let table = csv(&home, "runs");
    let cell = |name: &str| &table[1][table[0].iter().position(|title| title == name).unwrap()];
    assert_eq!(cell("test accuracy"), &number(&test["accuracy"]["value"]).to_string());
    assert_eq!(cell("test loss"), &number(&test["loss"]).to_string());
    assert_eq!(cell("val loss"), &epoch("val_loss").to_string());
    let results = csv(&home, "short/results");
    assert_eq!(results[2][2], number(&test["accuracy"]["value"]).to_string());
    assert_eq!(results[2][7], number(&test["positions"][0]["macro_f1"]).to_string());
    let confusion = csv(&home, "short/confusion-test-2");
    let matrix = test["positions"][1]["confusion"].as_array().unwrap();
    for (row, counts) in confusion[1..].iter().zip(matrix) {
        assert_eq!(row[1..], counts.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>());
    }

    let percent = |value: &Value| format!("{:.2}%", 100.0 * number(value));
    let accuracy = percent(&test["accuracy"]["value"]);
    let line = home.ok(&["runs"]).lines().nth(1).unwrap().to_owned();
    assert!(line.starts_with("short") && line.contains(&accuracy), "{line}");
    assert!(page(&home).contains(&format!("<td class=\"\">{accuracy}</td>")));
    let card = fs::read_to_string(home.path("artifacts/evaluate/short/README.md")).unwrap();
    assert!(card.contains(&format!("\n| test | 120 | {accuracy} | ")), "{card}");
    assert!(card.contains(&format!("\n      value: {}\n", number(&test["accuracy"]["value"]))), "{card}");
    assert!(fs::metadata(home.path("artifacts/report/index.html")).unwrap().len() < 5_000_000);
    // the run is trained again and interrupted: the finished and the unfinished run both exist
    unfinished(&home, "short", &self::epochs(2), None);
    home.ok(&["report"]);
    assert!(page(&home).contains("id=\"run-short\"") && page(&home).contains("id=\"run-short.unfinished\""));
    assert_eq!(csv(&home, "short/results"), results);
    home.ok(&["verify"]);
}

#[test]
fn a_report_without_runs_says_how_to_make_one() {
    let home = tiny();
    assert_eq!(home.ok(&["runs"]), "no runs yet; `multidigit run train` makes one\n");
    assert_eq!(home.ok(&["runs", "--json"]), "[]\n");
    assert!(home.ok(&["report"]).contains("report    done       0 runs"));
    assert!(page(&home).contains("No runs yet: <code>make train MODEL=alexnet</code> makes one."));
    assert!(page(&home).contains("Synthetic glyphs."));
    assert!(!home.path("artifacts/train").exists(), "nothing was trained");
    assert!(home.ok(&["report"]).contains("report    fresh      0 runs"));
}

/// Writes the files of an unfinished run.
fn unfinished(home: &Home, name: &str, epochs: &[Epoch], stop: Option<Value>) {
    let folder = home.path(&format!("artifacts/train/{name}.unfinished"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(
        folder.join("config.yaml"),
        "train:\n  model: resnet\n  learning_rate: 0.0005\n  epochs: 30\n  seed: 3\n",
    )
    .unwrap();
    fs::write(folder.join("env.json"), r#"{"version": "0.1.0", "commit": null, "cores": 2, "started": 1700000000}"#)
        .unwrap();
    train::metrics::write(&folder.join("metrics.csv"), 2, epochs).unwrap();
    fs::write(folder.join(multidigit::files::MARK), "").unwrap();
    if let Some(stop) = stop {
        fs::write(folder.join("stopped.json"), stop.to_string()).unwrap();
    }
}

#[test]
fn runs_that_were_interrupted_or_stopped_are_shown_as_what_they_are() {
    let home = tiny();
    home.ok(&["run", "dataset"]);
    unfinished(&home, "cut", &epochs(2), None);
    let message = "training stopped at step 7: the loss is NaN at learning rate 0.0005";
    unfinished(&home, "nan", &[], Some(json!({"step": 7, "epoch": 1, "loss": "NaN", "message": message})));
    fs::create_dir_all(home.path("artifacts/train/broken.unfinished")).unwrap();
    fs::write(home.path("artifacts/train/broken.unfinished/metrics.csv"), "nonsense\n").unwrap();
    fs::write(home.path("artifacts/train/broken.unfinished").join(multidigit::files::MARK), "").unwrap();
    let listed = home.ok(&["runs"]);
    let line = |name: &str| listed.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("cut").contains(" 2/30 ") && line("cut").ends_with("2023-11-14 22:13  unfinished"), "{listed}");
    assert!(line("nan").contains(" 0/30 ") && line("nan").ends_with("stopped"), "{listed}");
    assert!(line("broken").ends_with("unfinished"), "{listed}");
    let order: Vec<&str> = listed.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(order, ["cut", "broken", "nan"], "best first, then by name");
    assert!(home.ok(&["report"]).contains("done       3 runs"));
    let page = page(&home);
    for words in [
        "Unfinished: interrupted, or still under way.",
        "Stopped: training stopped at step 7: the loss is NaN at learning rate 0.0005.",
        "No epoch is done, so there are no curves.",
        "resnet, learning rate 0.0005, 2 of 30 epochs",
        "2 of 30 epochs, not finished; synthetic glyphs, not MNIST",
        "line &quot;nonsense&quot;",
    ] {
        assert!(page.contains(words), "{words}");
    }
    // the report is fresh until the run has another epoch
    assert!(home.ok(&["report"]).contains("fresh "));
    unfinished(&home, "cut", &epochs(3), None);
    assert!(home.ok(&["report"]).contains("done       3 runs"));
}

#[test]
fn a_training_that_met_a_nan_is_listed_and_shown_as_stopped() {
    let home = tiny();
    let diverging = ["--set", "train.model=alexnet", "--set", "train.learning_rate=1e30", "--set", "train.run=wild"];
    let answer = home.call(&[&["run", "train"][..], &diverging].concat());
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let runs: Value = serde_json::from_str(&home.ok(&["runs", "--json"])).unwrap();
    assert_eq!((runs[0]["run"].as_str(), runs[0]["state"].as_str()), (Some("wild"), Some("stopped")));
    assert_eq!((runs[0]["model"].as_str(), runs[0]["learning_rate"].as_f64()), (Some("alexnet"), Some(1e30)));
    home.ok(&["report"]);
    let page = page(&home);
    assert!(page.contains("<p class=\"warning\">Stopped: ") && page.contains("at learning rate"));
    assert!(page.contains("<span class=\"state stopped\">stopped</span>"));
}

#[test]
fn chosen_runs_are_compared_and_others_left_out() {
    let home = tiny();
    home.ok(&["run", "dataset"]);
    for name in ["a", "b", "c"] {
        unfinished(&home, name, &epochs(1), None);
    }
    let shown = || {
        let page = page(&home);
        ["a", "b", "c"].map(|name| page.contains(&format!("id=\"run-{name}.unfinished\"")))
    };
    // `--run` was the flag of version 0.1.0
    for (flag, runs, expected) in [
        ("--runs", "a,c", [true, false, true]),
        ("--run", "b", [false, true, false]),
        ("--runs", "?", [true; 3]),
        ("--runs", "c*,b", [false, true, true]),
    ] {
        home.ok(&["report", flag, runs]);
        assert_eq!(shown(), expected, "{runs}");
    }
    home.ok(&["report", "--set", "report.runs=[\"a*\"]"]);
    assert_eq!(shown(), [true, false, false]);
    for runs in ["d", "d*", "a,??"] {
        let refused = home.call(&["report", "--runs", runs]);
        let pattern = runs.trim_start_matches("a,");
        let message = format!(
            "error: `report.runs`: found \"{pattern}\"; expected the name of a run, or a pattern such as 'fcn*' that fits one \
             of a, b, c\n"
        );
        assert_eq!((refused.code, refused.stderr.ends_with(&message)), (Some(2), true), "{}", refused.stderr);
    }
}

#[test]
fn runs_on_another_data_set_are_left_out_and_the_page_says_so() {
    let home = tiny();
    home.ok(&["run", "train"]);
    let other = ["--set", "plan.seed=4"];
    home.ok(&[&["run", "train", "--set", "train.run=seed-4"][..], &other].concat());
    assert!(home.ok(&[&["report"][..], &other].concat()).contains("done       1 run in "));
    let page = page(&home);
    assert!(page.contains("id=\"run-seed-4\"") && !page.contains("id=\"run-short\""));
    let words = "<p>1 of 2 runs is left out, since a comparison needs one data set. Trained on another one, with other \
                 settings of <code>raw</code> or <code>plan</code>: short. ";
    assert!(page.contains(words), "{page}");
    let refused = home.call(&[&["report", "--runs", "sh*"][..], &other].concat());
    let message = "error: `report.runs`: found \"sh*\", which fits only runs on another data set; expected the name of a \
                   run, or a pattern such as 'fcn*' that fits one of seed-4\n";
    assert_eq!((refused.code, refused.stderr.ends_with(message)), (Some(2), true), "{}", refused.stderr);
}

/// Epochs with made-up numbers. The learning rate falls in the third.
fn epochs(n: usize) -> Vec<Epoch> {
    let epoch = |epoch: usize| Epoch {
        epoch,
        lr: if epoch < 3 { 5e-4 } else { 5e-5 },
        train_loss: 2.0 / epoch as f64,
        train_accuracy: 1.0 - 0.5 / epoch as f64,
        train_digits: vec![0.75; 2],
        val_loss: 2.5 / epoch as f64,
        val_accuracy: 1.0 - 0.625 / epoch as f64,
        val_digits: vec![0.75; 2],
        images_per_second: 250.0,
        seconds: 256.0,
    };
    (1..=n).map(epoch).collect()
}

/// Predictions for the first images of a split. The last digit of every fifth is wrong, with the same probabilities.
fn answers(split: &multidigit::shards::Split, images: usize) -> Predictions {
    let mut all = Predictions { digits: 2, loss: 0.25 * images as f64, ..Predictions::default() };
    for image in 0..images {
        for position in 0..2 {
            let right = split.targets[2 * image + position];
            let found = if image % 5 == 0 && position == 1 { (right + 1) % 10 } else { right };
            let mut odds = [0.0; 10];
            odds[usize::from(right)] = 0.25;
            odds[usize::from(found)] = 0.75;
            all.targets.push(right);
            all.predicted.push(found);
            all.probabilities.extend(odds);
        }
    }
    all
}

#[test]
fn the_words_of_a_model_card_are_those_that_were_read_and_approved() {
    let home = Home::with(&["raw.source=synthetic", "plan.samples_per_class=6"]);
    home.ok(&["run", "dataset"]);
    let data = home.path("artifacts/dataset/data");
    let facts = table::facts(Shards::open(&data, "train").unwrap().first()).unwrap();
    let config = train::Config {
        model: Model::Towers,
        learning_rate: 0.01,
        epochs: 4,
        ema: Some(0.99),
        ..train::Config::default()
    };
    let folder = home.path("towers-lr0.01-seed0-ema0.99");
    fs::create_dir(&folder).unwrap();
    train::metrics::write(&folder.join("metrics.csv"), 2, &epochs(4)).unwrap();
    let settings = json!({"train": config, "augment": augment::Config::default()});
    let place = Place { folder, settings: Some(settings), finished: Some(1_700_000_000), ..Place::default() };
    let split = |name: &str| {
        let split = multidigit::shards::read_split(&data, name, None).unwrap();
        SplitMetrics::new(name, &split.index, &answers(&split, split.len()))
    };
    let metrics = Metrics {
        precision: Precision::F32,
        version: VERSION,
        model: Model::Towers,
        parameters: 42_554,
        weights: evaluate::Weights::Ema,
        epoch: 4,
        digits: 2,
        image_size: [64, 64],
        data: Vec::new(),
        splits: vec![split("val"), split("test")],
    };
    let card = card::card(&Run::read(&place).unwrap(), &metrics, &facts);
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "../golden"}, {
        insta::assert_snapshot!("card", card);
    });
}

/// The text of a page, one line for each piece: without tags, styles and images, but with their alternative texts.
fn words(html: &str) -> String {
    let body = html.split("</style>").nth(1).unwrap();
    let mut out = String::new();
    for (n, part) in body.split('<').enumerate() {
        let (tag, text) = if n == 0 { ("", part) } else { part.split_once('>').unwrap() };
        if let Some(alt) = tag.split(" alt=\"").nth(1) {
            out.push_str(&format!("[{}]\n", alt.split('"').next().unwrap()));
        }
        if ["h1", "h2", "h3", "h4", "h5"].contains(&tag) {
            out.push_str(&format!("{} ", "#".repeat(tag[1..].parse().unwrap())));
        }
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.is_empty() {
            let is_cell = tag.starts_with("td") || tag.starts_with("th");
            out.push_str(&text);
            out.push_str(if is_cell { " | " } else { "\n" });
        } else if tag == "/tr" {
            out.push('\n');
        }
    }
    out
}

#[test]
fn the_words_of_the_report_are_those_that_were_read_and_approved() {
    let home = Home::with(&["raw.source=synthetic", "plan.samples_per_class=6"]);
    home.ok(&["run", "dataset"]);
    let dataset = home.path("artifacts/dataset");
    let (train, evaluated) = (home.path("resnet-lr0.0005-seed0"), home.path("evaluated"));
    for folder in [&train, &evaluated] {
        fs::create_dir(folder).unwrap();
    }
    train::metrics::write(&train.join("metrics.csv"), 2, &epochs(4)).unwrap();
    let split_metrics = |name: &str| {
        let split = multidigit::shards::read_split(&dataset.join("data"), name, None).unwrap();
        SplitMetrics::new(name, &split.index, &answers(&split, split.len()))
    };
    let metrics = Metrics {
        precision: Precision::F32,
        version: VERSION,
        model: multidigit::networks::Model::ResNet,
        parameters: 11_177_940,
        weights: evaluate::Weights::Best,
        epoch: 4,
        digits: 2,
        image_size: [64, 64],
        data: Vec::new(),
        splits: vec![split_metrics("val"), split_metrics("test")],
    };
    metrics.write(&evaluated.join(evaluate::FILE)).unwrap();
    let settings =
        json!({"train": {"model": "resnet", "learning_rate": 0.0005, "epochs": 4, "batch_size": 64, "seed": 0}});
    let place = Place {
        folder: train,
        evaluate: Some(evaluated),
        settings: Some(settings),
        finished: Some(1_700_000_000),
        ..Place::default()
    };
    let digests = vec![("dataset", multidigit::digest::Digest::of(b"as an example"))];
    let others = vec!["elsewhere".to_owned()];
    let runs = vec![Run::read(&place).unwrap()];
    let content = report::Content { dataset, augment: augment::Config::default(), digests, runs, others };
    report::run(&content, &home.path("report")).unwrap();
    let html = fs::read_to_string(home.path("report/index.html")).unwrap();
    for forbidden in ["http:", "https:", "<script", "src=\"//", "url(", "@import"] {
        assert!(!html.contains(forbidden), "the page asks for {forbidden}");
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true, snapshot_path => "../golden"}, {
        insta::assert_snapshot!("report", words(&html));
    });
}
