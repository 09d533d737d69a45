//! Tests of augmented epochs and their preview image through the program: dependencies, output and errors.

use std::path::Path;

use multidigit::augment::apply::Scratch;
use multidigit::augment::{Augmenter, Config, epoch_folder};
use multidigit::digest::Digest;
use multidigit::record::Record;
use multidigit::shards::{DATA, Donors, Parameters, Samples, Shards};

use super::Home;

/// The number of pixels of an image of the default size.
const AREA: usize = 64 * 64;

/// The training samples in a folder, in order.
fn train(folder: &Path) -> Samples {
    let shards = Shards::open(&folder.join(DATA), "train").unwrap();
    let sets = vec![Parameters::default(); shards.layout().parameters];
    let mut all = Samples { parameters: sets, ..Samples::default() };
    for position in shards.positions() {
        let part = shards.read(position).unwrap();
        all.labels.extend(part.labels);
        all.index.extend(part.index);
        all.digits.extend(part.digits);
        all.sources.extend(part.sources);
        all.images.extend(part.images);
        all.boxes.extend(part.boxes);
        all.epochs.extend(part.epochs);
        all.parameters.iter_mut().zip(part.parameters).for_each(|(all, part)| all.append(part));
        if let Some(part) = part.donors {
            let Donors { labels, index } = all.donors.get_or_insert_default();
            labels.extend(part.labels);
            index.extend(part.index);
        }
    }
    all
}

fn epoch(home: &Home, epoch: usize) -> Samples {
    train(&home.path("artifacts/augment").join(epoch_folder(epoch)))
}

/// The content digest in the output of `run augment`.
fn content(printed: &str) -> &str {
    let line = printed.lines().find(|line| line.starts_with("augment ")).unwrap();
    line.split("content ").nth(1).unwrap()
}

#[test]
fn an_epoch_or_a_sample_computed_alone_equals_the_stored_one() {
    let home = Home::new();
    home.ok(&["run", "augment", "--set", "augment.epochs=4"]);
    let (originals, stored) = (train(&home.path("artifacts/dataset")), epoch(&home, 3));
    let [parameters] = &stored.parameters[..] else { panic!("one set of columns") };
    assert_eq!((stored.labels.len(), &stored.labels, &stored.index), (1280, &originals.labels, &originals.index));
    let third = Augmenter::new(&Config::default(), 3, 2);
    let (mut out, mut scratch) = (vec![0; AREA], Scratch::default());
    // in reverse order, and every hundredth with a new augmenter
    for row in (0..stored.labels.len()).rev() {
        let alone = (row % 100 == 0).then(|| Augmenter::new(&Config::default(), 3, 2));
        let sample = (originals.labels[row], originals.index[row]);
        let pixels = &originals.images[row * AREA..][..AREA];
        let augmenter = alone.as_ref().unwrap_or(&third);
        let (drawn, _) = augmenter.apply(sample, pixels, (64, 64), &mut out, &mut scratch);
        let [drawn] = drawn[..] else { panic!("one set of parameters") };
        assert!(out == stored.images[row * AREA..][..AREA], "{sample:?}");
        assert_eq!(drawn.angle, Some(parameters.angle[row]));
        assert_eq!(drawn.affine.map(|affine| affine.scale), Some(parameters.scale[row]));
        assert_eq!(drawn.affine.map(|affine| affine.shear), Some(parameters.shear[row]));
        assert_eq!(drawn.affine.map(|affine| affine.translate.map(i64::from)), Some(parameters.translate[row]));
        let erased = drawn.erase.map(|e| [e.left, e.top, e.width, e.height].map(|value| value as i64));
        assert_eq!(erased.unwrap_or_default(), parameters.erased[row]);
    }
    assert!(epoch(&home, 0).parameters[0] != *parameters);
}

#[test]
fn the_content_does_not_depend_on_shards_and_row_groups() {
    let home = Home::new();
    let whole = home.ok(&["run", "augment"]);
    let cut = ["dataset.rows_per_shard=170", "dataset.row_group_rows=33"];
    let arguments: Vec<&str> =
        ["run", "augment", "--force"].into_iter().chain(cut.iter().flat_map(|s| ["--set", s])).collect();
    let pieces = home.ok(&arguments);
    let shards = Shards::open(&home.path("artifacts/augment/epoch-000").join(DATA), "train").unwrap();
    assert_eq!((shards.groups().len(), shards.groups()[0].as_slice()), (8, &[33, 33, 33, 33, 28][..]));
    assert_eq!(content(&whole), content(&pieces));
    assert!(home.ok(&["verify"]).contains("augment   ok "));
}

/// The record names a content that the epoch never had, so `verify` looks for the first row that differs. It can compare
/// rows only if the epoch is cut into row groups as the data set is.
#[test]
fn verify_compares_no_rows_of_an_epoch_that_is_cut_otherwise_than_the_data_set() {
    let home = Home::new();
    let printed = home.ok(&["run", "augment"]);
    home.ok(&["run", "dataset", "--force", "--set", "dataset.row_group_rows=33"]);
    let folder = home.path("artifacts/augment");
    let record = Record::read(&folder).unwrap().unwrap();
    Record { content: Digest::of(b"another"), ..record }.write(&folder).unwrap();
    let answer = home.call(&["verify"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stderr);
    let found = format!("content {}; its record says {}", content(&printed), Digest::of(b"another").short());
    assert!(answer.stdout.contains(&found), "{}", answer.stdout);
    assert!(!answer.stdout.contains("row"), "{}", answer.stdout);
}

#[test]
fn an_operator_that_is_off_leaves_the_columns_of_the_others_alone() {
    let home = Home::new();
    home.ok(&["run", "augment"]);
    let all = epoch(&home, 0).parameters.remove(0);
    let without = |operator: &str| {
        home.ok(&["run", "augment", "--set", &format!("augment.{operator}=null")]);
        home.ok(&["verify"]);
        epoch(&home, 0).parameters.remove(0)
    };
    let rows = all.angle.len();
    assert!(all.erased.iter().any(|erased| *erased != [0; 4]) && all.erased.contains(&[0; 4]));
    assert_eq!(without("rotation"), Parameters { angle: vec![0.0; rows], ..all.clone() });
    assert_eq!(without("erasing"), Parameters { erased: vec![[0; 4]; rows], ..all.clone() });
    let (translate, scale, shear) = (vec![[0; 2]; rows], vec![1.0; rows], vec![[0.0; 2]; rows]);
    assert_eq!(without("affine"), Parameters { translate, scale, shear, ..all });
}

/// The image that a stored row names for each slot gives its digit, its glyph and its pixels.
#[test]
fn a_stored_exchange_names_the_images_that_its_slots_are_taken_from() {
    for pairs in ["strict", "free"] {
        let home = Home::new();
        let exchange = format!("augment.exchange={pairs}");
        let off =
            ["augment.rotation=null", "augment.affine=null", "augment.erasing=null", "dataset.row_group_rows=300"];
        let settings = [&off[..], &["augment.by=slot", &exchange]].concat();
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
        home.ok(&[&["run", "augment"], &arguments[..]].concat());
        let (originals, stored) = (train(&home.path("artifacts/dataset")), epoch(&home, 0));
        let donors = stored.donors.as_ref().unwrap();
        let place = |label: i64, index: i64| {
            let is_it = |row: &usize| (originals.labels[*row], originals.index[*row]) == (label, index);
            (0..originals.labels.len()).find(is_it).unwrap()
        };
        let half = |images: &[u8], row: usize, slot: usize| -> Vec<u8> {
            let image = &images[row * AREA..][..AREA];
            image.chunks_exact(64).flat_map(|line| line[32 * slot..][..32].to_vec()).collect()
        };
        for row in 0..stored.labels.len() {
            for slot in 0..2 {
                let cell = 2 * row + slot;
                let donor = place(donors.labels[cell], donors.index[cell]);
                assert!(slot == 1 || donor == row, "the first slot stays");
                assert_eq!(stored.digits[cell], originals.digits[2 * donor + slot]);
                assert_eq!(stored.sources[cell], originals.sources[2 * donor + slot]);
                assert!(half(&stored.images, row, slot) == half(&originals.images, donor, slot), "{row} {slot}");
            }
        }
        assert_eq!(stored.labels == originals.labels, pairs == "strict");
        assert_eq!(stored.index, originals.index);
        assert_eq!(stored.parameters.len(), 2);
        assert!(home.ok(&[&["verify"], &arguments[..]].concat()).contains("augment   ok "));
    }
}

#[test]
fn epochs_that_no_disk_holds_are_refused_before_any_work() {
    let home = Home::new();
    home.ok(&["run", "augment"]);
    let answer = home.call(&["run", "augment", "--set", "augment.epochs=1000000000000"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stdout);
    let message = answer.stderr.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert!(message.starts_with("error: `artifacts`: 1000000000000 epochs need about "), "{message}");
    assert!(message.contains("B are free; free some space, lower `augment.epochs`"), "{message}");
    assert!(home.ok(&["status"]).contains("augment   fresh "), "what stood before stays");
}

#[test]
fn the_preview_wants_a_fresh_data_set() {
    let home = Home::new();
    let answer = home.call(&["preview", "augment"]);
    assert_eq!(answer.code, Some(1));
    let message = "error: preview: its input dataset is stale (has not run yet); run `multidigit run dataset` first\n";
    assert_eq!(answer.stderr, message);
    for bad in [["preview", "nonsense"], ["preview", "--rows=0"]] {
        assert_eq!(home.call(&bad).code, Some(2));
    }
    assert_eq!(home.call(&["preview", "augment", "--rows", "0"]).code, Some(2));
    home.ok(&["run", "dataset"]);
    let answer = home.call(&["preview", "augment", "--rows", "60000", "--epochs", "60000"]);
    assert_eq!(answer.code, Some(1), "{}", answer.stdout);
    assert!(answer.stderr.starts_with("error: a picture of 85") && answer.stderr.contains("take fewer --rows"));
}

#[test]
fn the_preview_shows_originals_beside_their_augmentations() {
    let home = Home::new();
    home.ok(&["run", "dataset"]);
    assert_eq!(home.ok(&["preview", "augment"]), "artifacts/preview-augment.png\n");
    assert_eq!(home.ok(&["preview", "augment", "--rows", "2", "--epochs", "3", "--out", "small.png"]), "small.png\n");
    assert!(!home.path("artifacts/augment").exists(), "no stored epoch is needed");
    let picture = image::open(home.path("small.png")).unwrap().into_rgb8();
    let originals = train(&home.path("artifacts/dataset"));
    let (columns, lines) = (142, 198); // the distance between two images, in pixels
    assert_eq!(picture.dimensions(), (10 + 4 * columns, 26 + 2 * lines));
    // the image at a position of the grid, where it is enlarged twice
    let shown = |row: u32, column: u32| -> Vec<u8> {
        let (left, top) = (10 + column * columns, 21 + row * lines);
        let pixel = |at: u32| picture.get_pixel(left + 2 * (at % 64), top + 2 * (at / 64)).0[0];
        (0..AREA as u32).map(pixel).collect()
    };
    let (mut out, mut scratch) = (vec![0; AREA], Scratch::default());
    for row in 0..2 {
        let at = row as usize * 640; // the samples are evenly spaced over 1280
        let pixels = &originals.images[at * AREA..][..AREA];
        assert!(shown(row, 0) == pixels);
        for epoch in 0..3 {
            let sample = (originals.labels[at], originals.index[at]);
            Augmenter::new(&Config::default(), epoch, 2).apply(sample, pixels, (64, 64), &mut out, &mut scratch);
            assert!(shown(row, epoch as u32 + 1) == out, "row {row}, epoch {epoch}");
        }
    }
    let one = std::fs::read(home.path("small.png")).unwrap();
    let arguments = ["preview", "augment", "--rows", "2", "--epochs", "3", "--out", "small.png"];
    home.ok(&[&arguments[..], &["--threads", "2"]].concat());
    assert!(std::fs::read(home.path("small.png")).unwrap() == one);
    home.ok(&[&arguments[..], &["--set", "augment.rotation=null"]].concat());
    assert!(std::fs::read(home.path("small.png")).unwrap() != one, "settings of augment are those of the picture");
}
