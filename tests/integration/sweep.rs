//! Tests of sweeps through the program: what they train, what they tell, and what they do not touch.

use std::fs;

use super::Home;

/// A pipeline of small trainings, and a sweep of two splits and two seeds.
fn home() -> Home {
    let settings = ["raw.source=synthetic", "plan.samples_per_class=10", "train.model=fcn", "train.epochs=1"];
    let home =
        Home::with(&[&settings[..], &["train.samples=32", "train.batch_size=32", "evaluate.samples=20"]].concat());
    let grid = "description: small\ngrid: {plan.split.by: [class, sample], train.seed: [0, 1]}\n";
    fs::write(home.path("small.yaml"), grid).unwrap();
    home
}

fn table(home: &Home, file: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(home.path("artifacts/sweep/small").join(file)).unwrap();
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

#[test]
fn a_sweep_trains_what_is_missing_and_gathers_the_results() {
    let home = home();
    let before = home.ok(&["sweep", "small.yaml", "--dry-run"]);
    assert_eq!(before.lines().last(), Some("4 runs, 0 done"), "{before}");
    assert!(!home.path("artifacts").exists(), "nothing was made");

    let printed = home.ok(&["sweep", "small.yaml"]);
    let runs: Vec<&str> = printed.lines().filter(|line| line.contains("  val ")).collect();
    assert_eq!(runs.len(), 4, "{printed}");
    assert!(printed.ends_with("wrote artifacts/sweep/small/sweep.csv\nwrote artifacts/sweep/small/summary.csv\n"));
    let rows = table(&home, "sweep.csv");
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[0][..3], ["run", "plan.split.by", "train.seed"]);
    let test = rows[0].iter().position(|title| title == "test_accuracy").unwrap();
    for row in &rows[1..] {
        let metrics = fs::read_to_string(home.path("artifacts/evaluate").join(&row[0]).join("metrics.json")).unwrap();
        let metrics: serde_json::Value = serde_json::from_str(&metrics).unwrap();
        let splits = metrics["splits"].as_array().unwrap();
        let expected = &splits.iter().find(|split| split["split"] == "test").unwrap()["accuracy"]["value"];
        assert_eq!(row[test].parse::<f64>().unwrap(), expected.as_f64().unwrap());
    }
    let groups = table(&home, "summary.csv");
    assert_eq!(
        groups.iter().map(|row| row[..2].join(" ")).collect::<Vec<_>>(),
        ["plan.split.by seeds", "class 2", "sample 2"]
    );

    let noted = fs::read_to_string(home.path("artifacts/train").join(&rows[4][0]).join("config.yaml")).unwrap();
    for flag in ["# --set plan.split.by=\"sample\"\n", "# --set train.seed=1\n"] {
        assert!(noted.contains(flag), "{noted}");
    }

    let after = home.ok(&["sweep", "small.yaml", "--dry-run"]);
    assert_eq!(after.lines().last(), Some("4 runs, 4 done"), "{after}");
    let weights =
        |run: &str| fs::metadata(home.path("artifacts/train").join(run).join("record.json")).unwrap().modified();
    let stamp = weights(&rows[1][0]).unwrap();
    fs::remove_dir_all(home.path("artifacts/train").join(&rows[4][0])).unwrap();
    home.ok(&["sweep", "small.yaml"]);
    assert_eq!(weights(&rows[1][0]).unwrap(), stamp, "a finished run is not trained again");
    // the time of the epochs is another, the rest is the same
    let without_time =
        |rows: &[Vec<String>]| rows.iter().map(|row| [&row[..3], &row[4..]].concat()).collect::<Vec<_>>();
    assert_eq!(without_time(&table(&home, "sweep.csv")), without_time(&rows));

    // runs that are finished stay in the tables of a sweep that fails for another run
    let grid = "description: small\ngrid: {plan.split.by: [class, sample], train.seed: [0, 1], change: {none: {}, bad: {train: {mean: 0.2, init: no.safetensors}}}}\n";
    fs::write(home.path("small.yaml"), grid).unwrap();
    assert_eq!(home.call(&["sweep", "small.yaml"]).code, Some(1));
    assert_eq!(table(&home, "sweep.csv").len(), 5);

    // a table with notes of the user is not replaced
    let path = home.path("artifacts/sweep/small/sweep.csv");
    fs::write(&path, fs::read_to_string(&path).unwrap() + "my notes\n").unwrap();
    let answer = home.call(&["sweep", "small.yaml"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("sweep.csv`: what no sweep wrote, or what was changed since"), "{}", answer.stderr);
    assert!(fs::read_to_string(&path).unwrap().ends_with("my notes\n"));
}

#[test]
#[cfg(unix)]
fn a_sweep_that_is_killed_goes_on_with_the_run_that_it_was_at() {
    let home = home();
    let mut sweep = home.command(&["sweep", "small.yaml"]).spawn().unwrap();
    // the second run has begun, and is not finished
    let under_way = || {
        let folder = fs::read_dir(home.path("artifacts/train")).into_iter().flatten().flatten();
        let names: Vec<_> = folder.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.iter().any(|name| name.contains("seed1"))
    };
    while !under_way() {
        assert!(sweep.try_wait().unwrap().is_none(), "the sweep ended before it was killed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    sweep.kill().unwrap();
    sweep.wait().unwrap();
    let tried = home.ok(&["sweep", "small.yaml", "--dry-run"]);
    assert!(!tried.contains("4 done") && !tried.contains(" 0 done"), "{tried}");
    home.ok(&["sweep", "small.yaml"]);
    assert_eq!(table(&home, "sweep.csv").len(), 5);
    assert_eq!(home.ok(&["sweep", "small.yaml", "--dry-run"]).lines().last(), Some("4 runs, 4 done"));
}

/// The runs of a sweep on one machine or on many: each data set is made once, its runs are trained at the same time, and the
/// tables are written in the end.
#[test]
fn the_runs_of_a_sweep_are_trained_by_several_processes() {
    let home = home();
    let listed = home.ok(&["sweep", "small.yaml", "--dry-run", "--json"]);
    let runs: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let name = |number: usize| runs[number]["run"].as_str().unwrap();
    assert_eq!(runs.iter().map(|run| run["data"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert!(runs.iter().all(|run| run["is_done"] == false && run["seconds"].is_null()), "{listed}");

    let answer = home.call(&["sweep", "small.yaml", "--run", name(0)]);
    let first = name(0);
    let message = format!(
        "error: {first}: its data are stale (dataset: has not run yet); run `multidigit sweep FILE --data {first}` first\n"
    );
    assert_eq!((answer.code, answer.stderr), (Some(1), message));
    let answer = home.call(&["sweep", "small.yaml", "--run", "fcn"]);
    let message = "error: `--run`: found fcn; expected the name of a run of the sweep, which --dry-run lists\n";
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(2), message));

    for data in [[0, 1], [2, 3]] {
        let made = home.ok(&["sweep", "small.yaml", "--data", name(data[0])]);
        assert!(made.contains("dataset   done       1000 images"), "{made}");
        assert!(!made.contains("train"), "{made}");
        let training = |run: usize| home.command(&["sweep", "small.yaml", "--run", name(run)]).spawn().unwrap();
        for mut training in data.map(training) {
            assert!(training.wait().unwrap().success());
        }
        assert!(!home.path("artifacts/sweep/small/sweep.csv").exists());
        // what is there is written, and nothing is trained for it
        let answer = home.call(&["sweep", "small.yaml", "--commit"]);
        let missing = |run: usize| format!("warning: {}: not done, and not in the tables\n", name(run));
        let warnings = if data[0] == 0 { missing(2) + &missing(3) } else { String::new() };
        assert_eq!((answer.code, answer.stderr), (Some(0), warnings));
        assert_eq!(table(&home, "sweep.csv").len(), 2 + data[1]);
        fs::remove_dir_all(home.path("artifacts/sweep/small")).unwrap();
    }
    home.ok(&["sweep", "small.yaml", "--commit"]);
    let apart = table(&home, "sweep.csv");
    assert!(home.ok(&["sweep", "small.yaml"]).contains(name(3)));
    assert_eq!(table(&home, "sweep.csv"), apart, "all runs were fresh");
}

#[test]
fn weights_that_a_training_cannot_start_from_leave_no_run_behind() {
    let home = home();
    fs::write(home.path("bad.safetensors"), "text").unwrap();
    let answer = home.call(&["run", "train", "--set", "train.init=bad.safetensors"]);
    assert_eq!(answer.code, Some(1));
    assert!(answer.stderr.contains("`bad.safetensors`: not readable as safetensors"), "{}", answer.stderr);
    assert!(!home.path("artifacts/train").exists());
}

#[test]
fn the_report_shows_runs_that_differ_in_their_seed_alone_together() {
    let home = home();
    let seeds = "description: seeds\ngrid: {train.seed: [0, 1, 2]}\n";
    fs::write(home.path("seeds.yaml"), seeds).unwrap();
    home.ok(&["sweep", "seeds.yaml"]);
    home.ok(&["report"]);
    let table = fs::read_to_string(home.path("artifacts/report/tables/seeds.csv")).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[1].starts_with("fcn-lr0.0005-"), "{table}");
    let picture = fs::read_to_string(home.path("artifacts/report/figures/seeds.svg")).unwrap();
    assert!(picture.contains("accuracy on test, %"), "{picture}");
}

#[test]
fn a_sweep_passes_over_a_run_that_fails_and_leaves_the_files_of_others_alone() {
    let home = home();
    // with this rate, the loss is not finite after a step
    let grid = "description: bad\nsettings: {train: {samples: 64}}\ngrid: {train.learning_rate: [1e38, 1e-4]}\n";
    fs::write(home.path("bad.yaml"), grid).unwrap();
    let answer = home.call(&["sweep", "bad.yaml"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stdout);
    assert_eq!(answer.stdout.lines().filter(|line| line.contains("  val ")).count(), 1, "{}", answer.stdout);
    let rows = fs::read_to_string(home.path("artifacts/sweep/bad/sweep.csv")).unwrap();
    assert_eq!(rows.lines().count(), 2, "{rows}");

    let table = home.path("artifacts/sweep/small/summary.csv");
    fs::create_dir_all(table.parent().unwrap()).unwrap();
    fs::write(&table, "my,notes\n").unwrap();
    let answer = home.call(&["sweep", "small.yaml"]);
    let message = "error: `artifacts/sweep/small/summary.csv`: what no sweep wrote, or what was changed since; expected a \
                   table as a sweep wrote it, or nothing; move it away\n";
    assert_eq!((answer.code, answer.stderr.as_str()), (Some(1), message));
    assert_eq!(fs::read_to_string(&table).unwrap(), "my,notes\n");
    let answer = home.call(&["sweep", "small.yaml", "--recipe", "fast"]);
    assert_eq!(answer.code, Some(2), "{}", answer.stderr);
}
