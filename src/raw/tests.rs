use std::fs;
use std::io::Write;

use super::*;
use crate::files;
use crate::raw::idx::tests::{file, packed};

/// The folder with the real MNIST files, named by MULTIDIGIT_TEST_MNIST. Without it, a test of real data prints that it
/// is skipped, or fails if MULTIDIGIT_REQUIRE_MNIST is 1.
pub(crate) fn mnist(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("MULTIDIGIT_TEST_MNIST").map(PathBuf::from);
    if folder.is_none() {
        let required = std::env::var_os("MULTIDIGIT_REQUIRE_MNIST").is_some_and(|value| value == "1");
        assert!(!required, "{test}: MULTIDIGIT_REQUIRE_MNIST is 1, but MULTIDIGIT_TEST_MNIST names no folder");
        // not eprintln, whose output the test runner hides if the test passes
        writeln!(std::io::stderr(), "{test}: skipped, as MULTIDIGIT_TEST_MNIST names no folder with the MNIST files")
            .unwrap();
    }
    folder
}

fn config(source: &str, mirrors: &[&str]) -> Config {
    Config { source: source.to_owned().into(), mirrors: mirrors.iter().map(|&mirror| mirror.to_owned()).collect() }
}

fn run_here(config: &Config, raw: &Path, preferred: &str) -> Result<Output> {
    run_with(config, raw, preferred, &Limits::DEFAULT, &Progress::silent())
}

/// Writes a valid set of three glyphs that is not MNIST.
fn write_small_set(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("train-images.idx3-ubyte"), file(&[2, 28, 28], &[1; 1568])).unwrap();
    fs::write(folder.join("train-labels.idx1-ubyte"), file(&[2], &[3, 4])).unwrap();
    fs::write(folder.join("t10k-images-idx3-ubyte.gz"), packed(&file(&[1, 28, 28], &[2; 784]))).unwrap();
    fs::write(folder.join("t10k-labels-idx1-ubyte.gz"), packed(&file(&[1], &[5]))).unwrap();
}

/// The message of an error, with the path of the folder replaced by `HOME`.
fn text(error: Error, home: &Path) -> String {
    error.to_string().replace(&home.display().to_string(), "HOME")
}

#[test]
fn real_mnist_is_fetched_from_a_folder_verified_and_read() {
    let Some(mirror) = mnist("real_mnist_is_fetched_from_a_folder_verified_and_read") else { return };
    let raw = tempfile::tempdir().unwrap();
    let config = config("mnist", &["no/such/folder"]);
    let output = run_here(&config, raw.path(), &format!(" ,{}, ", mirror.display())).unwrap();
    assert_eq!(output.files, locate(&config, raw.path()).unwrap());
    assert_eq!(output.glyphs.len(), 70_000);
    let glyphs = Glyphs::read(&output.files).unwrap();
    assert_eq!(glyphs.digest(), output.digest);
    // the first labels, and the number of images per digit, as published with the set
    assert_eq!((&glyphs.labels()[..5], glyphs.label(60_000)), ([5, 0, 4, 1, 9].as_slice(), 7));
    let count = |digit: u8| glyphs.labels()[..60_000].iter().filter(|&&label| label == digit).count();
    assert_eq!(
        std::array::from_fn(|digit| count(digit as u8)),
        [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    );
    // existing files are used again, without any mirror
    assert_eq!(run_here(&self::config("mnist", &[]), raw.path(), "").unwrap(), output);
}

#[test]
fn files_are_found_under_either_naming_packed_first() {
    let home = tempfile::tempdir().unwrap();
    let found = || {
        let files = Files::find(home.path())?;
        Ok::<_, Vec<&str>>(files.paths.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()))
    };
    fs::create_dir(home.path().join("train-images-idx3-ubyte.gz")).unwrap(); // not a file
    fs::write(home.path().join("t10k-images.idx3-ubyte"), "").unwrap();
    assert_eq!(found(), Err(vec!["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"]));
    for (suffix, first) in [(".idx#-ubyte", 0), ("-idx#-ubyte", 1), (".idx#-ubyte.gz", 2), ("-idx#-ubyte.gz", 3)] {
        let names = ["train-images 3", "train-labels 1", "t10k-images 3", "t10k-labels 1"].map(|name| {
            let (stem, rank) = name.split_once(' ').unwrap();
            format!("{stem}{}", suffix.replace('#', rank))
        });
        for name in names.iter().filter(|name| !home.path().join(name).is_dir()) {
            fs::write(home.path().join(name), "").unwrap();
        }
        let mut expected = names;
        if first == 3 {
            expected[0] = "train-images.idx3-ubyte.gz".to_owned();
        }
        assert_eq!(found(), Ok(expected));
    }
}

#[test]
fn what_is_missing_is_named_with_a_way_out() {
    let home = tempfile::tempdir().unwrap();
    write_small_set(home.path());
    fs::remove_file(home.path().join("t10k-labels-idx1-ubyte.gz")).unwrap();
    fs::remove_file(home.path().join("train-images.idx3-ubyte")).unwrap();
    let missing = "missing train-images-idx3-ubyte, t10k-labels-idx1-ubyte, under either naming, with or without .gz";
    assert_eq!(
        text(locate(&config("mnist", &[]), home.path()).unwrap_err(), home.path()),
        format!("`HOME`: {missing}; run the stage `raw`, which fetches them")
    );
    let source = home.path().to_str().unwrap();
    assert_eq!(
        text(run_here(&config(source, &[]), Path::new("raw"), "").unwrap_err(), home.path()),
        format!("`HOME`: {missing}; set raw.source to mnist, synthetic, or a folder that holds all four")
    );
    assert_eq!(
        text(locate(&config("synthetic", &[]), home.path()).unwrap_err(), home.path()),
        "`HOME/synthetic`: missing train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, \
         t10k-labels-idx1-ubyte, under either naming, with or without .gz; run the stage `raw`, which draws them"
    );
}

#[test]
fn when_no_mirror_helps_each_one_is_named_with_its_error() {
    let home = tempfile::tempdir().unwrap();
    let mirror = home.path().join("mirror");
    write_small_set(&mirror);
    let raw = home.path().join("raw");
    let found = run_here(&config("mnist", &["no/such/folder"]), &raw, mirror.to_str().unwrap()).unwrap_err();
    let digest = sha_of_file(&mirror.join("train-images.idx3-ubyte"));
    let missing =
        "missing train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte";
    let ways = "either put the four files in `HOME/raw` (with or without .gz), or let the program draw digits: --set \
                raw.source=synthetic";
    assert_eq!(
        text(found, home.path()),
        format!(
            "`HOME/raw`: {missing}, and no mirror gave them:\n  \
             `HOME/mirror/train-images.idx3-ubyte`: SHA-256 {digest} (unpacked); expected MNIST's \
             ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db\n  \
             `no/such/folder`: holds no train-images-idx3-ubyte, under either naming, with or without .gz\n{ways}"
        )
    );
    assert_eq!(files::walk(&raw).unwrap(), Vec::<PathBuf>::new());
    assert_eq!(
        text(run_here(&config("mnist", &[]), &raw, "").unwrap_err(), home.path()),
        format!("`HOME/raw`: {missing}, and no mirror gave them: none is set\n{ways}")
    );
}

fn sha_of_file(path: &Path) -> String {
    use sha2::Digest;
    fetch::hex(&sha2::Sha256::digest(fs::read(path).unwrap()).into())
}

#[test]
fn another_set_under_mnists_names_is_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    write_small_set(home.path());
    let before = files::entries(home.path()).unwrap();
    let digest = sha_of_file(&home.path().join("train-images.idx3-ubyte"));
    assert_eq!(
        text(run_here(&config("mnist", &[]), home.path(), "").unwrap_err(), home.path()),
        format!(
            "`HOME/train-images.idx3-ubyte`: SHA-256 {digest} (unpacked); expected MNIST's \
             ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db: either remove the file, or, if another \
             set is meant, put it in a folder of its own and set raw.source to that folder"
        )
    );
    assert_eq!(files::entries(home.path()).unwrap(), before);
}

#[test]
fn a_folder_is_read_in_place() {
    let home = tempfile::tempdir().unwrap();
    let source = home.path().join("kmnist");
    write_small_set(&source);
    let before = files::entries(&source).unwrap();
    let output = run_here(&config(source.to_str().unwrap(), &[]), &home.path().join("raw"), "").unwrap();
    let glyphs = Glyphs::new([[1; 784], [1; 784], [2; 784]].concat(), vec![3, 4, 5]);
    assert_eq!((output.glyphs.len(), output.digest), (3, glyphs.digest()));
    assert!(Glyphs::read(&output.files).unwrap() == glyphs);
    assert_eq!(files::entries(&source).unwrap(), before);
    assert!(!home.path().join("raw").exists());
}

#[test]
fn the_synthetic_set_is_drawn_once_and_completed() {
    let home = tempfile::tempdir().unwrap();
    let config = config("synthetic", &[]);
    let output = run_here(&config, home.path(), "").unwrap();
    assert_eq!((output.glyphs.len(), output.digest.to_string().as_str()), (70_000, synthetic::DIGEST));
    let folder = home.path().join("synthetic");
    assert!(output.files.paths.iter().all(|path| path.parent() == Some(&folder)));
    let stamp = |path: &PathBuf| files::Stamp::of(path).unwrap();
    let first = output.files.paths.each_ref().map(stamp);
    assert_eq!(run_here(&config, home.path(), "").unwrap(), output);
    assert_eq!(output.files.paths.each_ref().map(stamp), first);

    // the state left by a run that was killed after two files
    let [train_images, train_labels, test_images, test_labels] = &output.files.paths;
    fs::remove_file(test_images).unwrap();
    fs::remove_file(test_labels).unwrap();
    std::mem::forget(Build::beside(&folder.join("draw")).unwrap());
    assert_eq!(run_here(&config, home.path(), "").unwrap(), output);
    assert_eq!([train_images, train_labels].map(stamp), first[..2]);
    let mut standing = vec![folder.join(".lock")];
    standing.extend([test_images, test_labels, train_images, train_labels].map(PathBuf::clone));
    assert_eq!(files::entries(&folder).unwrap(), standing);
}

#[test]
fn other_files_under_the_synthetic_sets_names_are_named_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("synthetic");
    let config = config("synthetic", &[]);
    let message = || text(run_here(&config, home.path(), "").unwrap_err(), home.path());
    let expected = |found: &str| {
        format!(
            "`HOME/synthetic`: other files stand there under the synthetic set's names ({found}); either move them \
             away, or, if they are meant, set raw.source to this folder"
        )
    };
    // a whole set
    write_small_set(&folder);
    let small = Glyphs::read(&Files::find(&folder).unwrap()).unwrap().digest().short();
    let set = [small.as_str(), synthetic::DIGEST.get(..12).unwrap()].join("; expected ");
    let before = files::entries(&folder).unwrap();
    assert_eq!(message(), expected(&format!("content {set}")));
    assert_eq!(files::entries(&folder).unwrap(), before);
    // one file, under the other naming and not packed
    before.iter().for_each(|path| fs::remove_file(path).unwrap());
    let foreign = folder.join("train-labels.idx1-ubyte");
    fs::write(&foreign, file(&[2], &[3, 4])).unwrap();
    let counts = "`HOME/synthetic/train-images-idx3-ubyte.gz`: 60000 images, but \
                  `HOME/synthetic/train-labels.idx1-ubyte` has 2 labels; expected as many";
    assert_eq!(message(), expected(counts));
    assert_eq!(fs::read(&foreign).unwrap(), file(&[2], &[3, 4]));
    assert!(!folder.join("train-labels-idx1-ubyte.gz").exists());
    // a folder
    fs::remove_file(&foreign).unwrap();
    fs::create_dir(folder.join("train-labels-idx1-ubyte.gz")).unwrap();
    assert_eq!(
        message(),
        "`HOME/synthetic/train-labels-idx1-ubyte.gz`: found something that is no file; expected a file, or nothing: \
         move it away"
    );
    // after the advice is followed, the set is completed
    fs::remove_dir(folder.join("train-labels-idx1-ubyte.gz")).unwrap();
    run_here(&config, home.path(), "").unwrap();
}

#[test]
fn a_fetch_leaves_every_other_file_of_the_raw_folder_alone() {
    let home = tempfile::tempdir().unwrap();
    let theirs = [".notes.new", ".plan.old", ".train-images-idx3-ubyte.gz.new", "fetch"];
    for name in theirs {
        fs::write(home.path().join(name), name).unwrap();
    }
    let mirror = tempfile::tempdir().unwrap();
    write_small_set(mirror.path());
    assert!(run_here(&config("mnist", &[]), home.path(), mirror.path().to_str().unwrap()).is_err());
    for name in theirs {
        assert_eq!(fs::read_to_string(home.path().join(name)).unwrap(), name);
    }
    assert_eq!(files::entries(home.path()).unwrap().len(), theirs.len() + 1); // plus the lock
}

#[test]
fn a_killed_download_leaves_nothing_that_the_next_run_keeps() {
    let home = tempfile::tempdir().unwrap();
    let build = Build::beside(&home.path().join("fetch")).unwrap();
    fs::write(build.path().join("train-images-idx3-ubyte.gz"), "half").unwrap();
    std::mem::forget(build);
    assert!(run_here(&config("mnist", &[]), home.path(), "").is_err());
    assert_eq!(files::entries(home.path()).unwrap(), [home.path().join(".lock")]);
}

#[test]
fn a_source_is_a_plain_text_in_the_configuration() {
    let read = |json| serde_json::from_value::<Config>(json).map_err(|error| error.to_string());
    assert_eq!(read(serde_json::json!({})).unwrap(), Config::default());
    let config = read(serde_json::json!({"source": "data/kmnist", "mirrors": []})).unwrap();
    assert_eq!(config, Config { source: Source::Folder("data/kmnist".into()), mirrors: Vec::new() });
    assert_eq!(serde_json::to_value(&config).unwrap(), serde_json::json!({"source": "data/kmnist", "mirrors": []}));
    assert_eq!(serde_json::to_value(Config::default()).unwrap()["source"], "mnist");
    assert_eq!(read(serde_json::json!({"source": "synthetic"})).unwrap().source, Source::Synthetic);
    assert!(read(serde_json::json!({"sauce": "mnist"})).unwrap_err().contains("unknown field `sauce`"));
    let schema = schemars::schema_for!(Config);
    assert_eq!(schema.pointer("/properties/source/type"), Some(&"string".into()));
    assert_eq!(schema.pointer("/properties/source/default"), Some(&"mnist".into()));
}

#[test]
fn settings_that_cannot_work_are_refused_before_any_work() {
    let message = |source, mirror| config(source, &[mirror]).validate().unwrap_err().to_string();
    assert_eq!(message("", "x"), "`raw.source`: found an empty text; expected mnist, synthetic or a folder");
    let expected = "expected an https:// address or a folder (http:// only for 127.0.0.1 and localhost)";
    assert_eq!(
        message("mnist", "http://example.org/"),
        format!("`raw.mirrors`: found `http://example.org/`; {expected}")
    );
    let home = tempfile::tempdir().unwrap();
    assert_eq!(
        run_here(&config("mnist", &[]), home.path(), "ftp://example.org").unwrap_err().to_string(),
        format!("`MULTIDIGIT_MIRRORS`: found `ftp://example.org`; {expected}")
    );
    Config::default().validate().unwrap();
}

#[test]
fn the_folder_that_a_killed_run_left_beside_whole_files_goes_and_one_of_the_users_stays() {
    let home = tempfile::tempdir().unwrap();
    let left = home.path().join(".fetch.new");
    for mark in [None, Some(".multidigit")] {
        fs::create_dir(&left).unwrap();
        mark.iter().for_each(|mark| fs::write(left.join(mark), "").unwrap());
        clear(&home.path().join(FETCH), home.path());
        assert!(!left.exists());
    }
    fs::create_dir(&left).unwrap();
    fs::write(left.join("mine"), "").unwrap();
    clear(&home.path().join(FETCH), home.path());
    assert!(left.join("mine").exists());
}
