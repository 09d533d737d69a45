//! Tests of exports through the program: what is written, that it is the same every time, and what is refused. What other
//! programs read in the files is tested in `tests/readers/test_export.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use multidigit::files;
use multidigit::parquet_file::ParquetFile;

use super::Home;

const FORMS: [&str; 5] = ["tree", "webdataset", "coco", "npz", "episodes"];

/// The files below a folder, by their paths in it.
fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |path: std::path::PathBuf| (path.display().to_string(), fs::read(folder.join(path)).unwrap());
    files::walk_all(folder).unwrap().into_iter().map(read).collect()
}

#[test]
fn every_form_has_its_folder_and_is_the_same_every_time_on_any_number_of_threads() {
    let home = Home::new();
    home.ok(&["run", "dataset", "--set", "dataset.row_group_rows=70"]);
    for form in FORMS {
        assert_eq!(home.ok(&["export", form]), format!("artifacts/export/{form}\n"));
        home.ok(&["export", form, "--out", "again", "--threads", "1", "--no-sync"]);
        let first = content(&home.path(&format!("artifacts/export/{form}")));
        assert!(!first.is_empty() && first == content(&home.path("again")), "{form}");
        fs::remove_dir_all(home.path("again")).unwrap();

        // a folder with files in it is the user's, even if an export wrote them
        fs::write(home.path(&format!("artifacts/export/{form}/notes.txt")), "mine").unwrap();
        let answer = home.call(&["export", form]);
        let message = format!(
            "error: `artifacts/export/{form}`: a folder with files in it; expected an empty folder, or none; move it away, \
             or name another folder with --out\n"
        );
        assert_eq!((answer.code, answer.stderr), (Some(1), message));
    }
    // no build and no lock stays behind that another export would meet
    let left: Vec<String> =
        content(&home.path("artifacts/export")).into_keys().filter(|name| name.contains(".new")).collect();
    assert!(left.is_empty(), "{left:?}");
    home.ok(&["clean"]);
    assert!(home.path("artifacts/export/tree/notes.txt").exists(), "exports are not the stages'");
}

#[test]
fn the_tree_has_a_file_for_each_image_of_the_chosen_splits() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    fs::create_dir(home.path("mine")).unwrap();
    assert_eq!(home.ok(&["export", "tree", "--splits", "test,val", "--out", "mine"]), "mine\n");
    let files = content(&home.path("mine"));
    assert_eq!(files.len(), (16 + 20) * 20);
    let splits: BTreeSet<&str> = files.keys().map(|name| name.split('/').next().unwrap()).collect();
    assert_eq!(splits, BTreeSet::from(["val", "test"]));
    for name in files.keys() {
        let [_, class, file] = name.split('/').collect::<Vec<_>>()[..] else { panic!("{name}") };
        let (index, rest) = file.split_once('_').unwrap();
        assert_eq!(rest, format!("{class}.png"));
        assert!(class.len() == 2 && index.parse::<u32>().unwrap() < 20, "{name}");
    }
}

/// The rows of a table of episodes: split, role, and the columns of numbers in order.
fn episodes(path: &Path) -> Vec<(String, String, [i64; 5])> {
    use arrow::array::AsArray;
    let file = ParquetFile::open(path).unwrap();
    let columns = ["split", "role", "episode", "way", "label", "index", "row"];
    let mut rows = Vec::new();
    for batch in file.read(&columns, (0..file.row_groups().len()).collect(), 1000).unwrap() {
        let batch = batch.unwrap();
        let text = |name| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let numbers = [2, 3, 4, 5, 6].map(|column| file.ints(&batch, columns[column]).unwrap());
        for row in 0..batch.num_rows() {
            let numbers = numbers.each_ref().map(|column| column[row]);
            rows.push((text("split").value(row).to_owned(), text("role").value(row).to_owned(), numbers));
        }
    }
    rows
}

#[test]
fn an_episode_has_so_many_classes_with_so_many_samples_of_each_and_none_twice() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    let draw = |more: &[&str]| {
        let words = ["export", "episodes", "--ways=3", "--shots=2", "--queries=4", "--out=drawn"];
        home.ok(&[&words[..], more].concat());
        let rows = episodes(&home.path("drawn/episodes.parquet"));
        fs::remove_dir_all(home.path("drawn")).unwrap();
        rows
    };
    let rows = draw(&["--episodes=7"]);
    assert_eq!(rows.len(), 3 * 7 * 3 * (2 + 4));
    let labels: BTreeMap<&str, Vec<i64>> = ["train", "val", "test"]
        .map(|split| {
            let data = home.path("artifacts/dataset").join("data");
            let mut labels = Vec::new();
            multidigit::Shards::open(&data, split).unwrap().each_label(|label| labels.push(label)).unwrap();
            (split, labels)
        })
        .into();
    for of_episode in rows.chunks(18) {
        let (split, _, [episode, ..]) = &of_episode[0];
        assert!(of_episode.iter().all(|(s, _, [e, ..])| s == split && e == episode));
        let classes: BTreeSet<(i64, i64)> =
            of_episode.iter().map(|(_, _, [_, way, label, ..])| (*way, *label)).collect();
        assert_eq!(classes.iter().map(|(way, _)| *way).collect::<Vec<_>>(), [0, 1, 2], "a class for each way");
        assert_eq!(classes.iter().map(|(_, label)| label).collect::<BTreeSet<_>>().len(), 3);
        let samples: BTreeSet<i64> = of_episode.iter().map(|(_, _, [.., row])| *row).collect();
        assert_eq!(samples.len(), 18);
        for (way, rows) in of_episode.chunks(6).enumerate() {
            let roles: Vec<&str> = rows.iter().map(|(_, role, _)| role.as_str()).collect();
            assert_eq!(roles, ["support", "support", "query", "query", "query", "query"]);
            for (_, _, [_, of, label, _, row]) in rows {
                assert_eq!((*of as usize, labels[split.as_str()][*row as usize]), (way, *label));
            }
        }
    }
    assert!(rows == draw(&["--episodes=7"]) && rows != draw(&["--episodes=7", "--seed=1"]));
    // an episode is drawn apart from all others
    let more = draw(&["--episodes=9", "--splits=val"]);
    let of_val: Vec<_> = rows.iter().filter(|(split, ..)| split == "val").cloned().collect();
    assert_eq!(more[..of_val.len()], of_val);
}

#[test]
fn what_cannot_be_exported_is_refused_before_anything_is_written() {
    let home = Home::new();
    let refusal = |words: &[&str]| {
        let answer = home.call(&[&["export"], words].concat());
        assert!(matches!(answer.code, Some(1 | 2)), "{}", answer.stdout);
        answer.stderr
    };
    let message = "error: `artifacts/dataset`: no data set; expected one; make it with `multidigit run dataset`\n";
    assert_eq!(refusal(&["tree"]), message);
    home.ok(&["run", "dataset"]);
    assert_eq!(
        refusal(&["npz", "--splits=dev"]),
        "error: `--splits`: found dev; expected one or more of train, val, test\n"
    );
    let message = "error: `artifacts/dataset/data/mine`: a place in the folder of the stage dataset; expected one apart from \
                   what the stages made\n";
    assert_eq!(refusal(&["coco", "--out=artifacts/dataset/data/mine"]), message);
    let few = "error: `--ways`: found 17; expected at most 16, the classes of val\n";
    assert_eq!(refusal(&["episodes", "--ways=17"]), few);
    let few =
        "error: `--shots and --queries`: found 6 and 15; expected at most 20 in all, the samples of a class of train\n";
    assert_eq!(refusal(&["episodes", "--shots=6"]), few);
    fs::write(home.path("file"), "").unwrap();
    assert!(
        refusal(&["npz", "--out=file"])
            .starts_with("error: `file`: a file; expected a folder, or nothing, in its place")
    );
    assert!(!home.path("artifacts/export/episodes").exists());

    let shard = fs::read_dir(home.path("artifacts/dataset/data")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[100] ^= 1;
    fs::write(&shard, bytes).unwrap();
    assert!(refusal(&["tree"]).contains("make it again"), "{}", refusal(&["tree"]));
}

#[test]
fn a_demo_is_the_same_every_time_and_holds_what_is_known_of_the_run() {
    let home = Home::with(&[
        "raw.source=synthetic",
        "plan.digits=1",
        "plan.image_size=[28,28]",
        "plan.samples_per_class=10",
        "plan.split.by=sample",
        "train.model=towers",
        "train.trunk.channels=4",
        "train.epochs=1",
        "train.batch_size=20",
        "train.augment=false",
        "train.run=short",
    ]);
    let refusal = |words: &[&str]| {
        let answer = home.call(&[&["export", "demo"], words].concat());
        assert_eq!((answer.code, answer.stdout.as_str()), (Some(1), ""));
        answer.stderr
    };
    let missing = "error: `artifacts/train`: no run short stands here; expected a trained run, and there is none; \
                   `multidigit run train` makes one\n";
    assert_eq!(refusal(&[]), missing);
    let nothing =
        "error: `gone/run`: no such file or folder; expected a .safetensors file of weights, or the folder of a run\n";
    assert_eq!(refusal(&["--run=gone/run"]), nothing);
    home.ok(&["run", "train"]);
    assert_eq!(home.ok(&["export", "demo"]), "artifacts/export/short-demo.html\n");
    let page = |name: &str| fs::read_to_string(home.path(name)).unwrap();
    let first = page("artifacts/export/short-demo.html");
    home.ok(&["export", "demo", "--run=artifacts/train/short", "--out=pages/again.html", "--threads=1"]);
    assert!(first == page("pages/again.html"));
    assert!(first.contains("trained on SingleSynthetic") && first.contains("It has not been evaluated"));
    assert_eq!(first.matches("\"pixels\":").count(), 12);

    let stands = "error: `artifacts/export/short-demo.html`: a file or a folder that stands already; expected a name that is \
                  not taken; move it away, or name another file with --out\n";
    assert_eq!(refusal(&[]), stands);
    assert!(refusal(&["--out=artifacts/report/demo.html"]).contains("a place in the folder of the stage report"));

    home.ok(&["run", "evaluate"]);
    home.ok(&["export", "demo", "--out=evaluated.html"]);
    assert!(page("evaluated.html").contains("of the 30 test images (95% interval: "));
    // weights that were not evaluated have no accuracy
    home.ok(&["export", "demo", "--set=evaluate.weights=last", "--out=last.html"]);
    assert!(page("last.html").contains("It has not been evaluated"));
    // another data set is not that of the run, and its images may have been trained on
    home.ok(&["run", "dataset", "--set=plan.seed=1"]);
    home.ok(&["export", "demo", "--out=other.html"]);
    let other = page("other.html");
    assert!(!other.contains("SingleSynthetic") && !other.contains("\"pixels\":"));

    let weights = home.path("artifacts/train/short/weights/best.safetensors");
    fs::copy(&weights, home.path("<b>&.safetensors")).unwrap();
    assert_eq!(home.ok(&["export", "demo", "--run=<b>&.safetensors"]), "artifacts/export/<b>&-demo.html\n");
    let named = page("artifacts/export/<b>&-demo.html");
    assert!(named.contains("<code>&lt;b&gt;&amp;</code>") && !named.contains("<b>"));

    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    assert!(refusal(&["--out=damaged.html"]).contains("its bytes are not those that were recorded"));
    assert!(!home.path("damaged.html").exists());
}
