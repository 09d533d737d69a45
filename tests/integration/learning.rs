//! Tests of the stages `train` and `evaluate` on a small data set that is easy to learn: results, files and errors.

use std::path::Path;
use std::sync::Mutex;

use multidigit::augment;
use multidigit::digest::Digest;
use multidigit::error::Error;
use multidigit::evaluate::{self, Metrics};
use multidigit::networks::{Model, weights};
use multidigit::progress::{Event, Progress};
use multidigit::rng;
use multidigit::shards::Split;
use multidigit::train::TrainError;
use multidigit::train::epochs::Epochs;
use multidigit::train::loader::Loader;
use multidigit::train::{self, Config, Data, batch};
use multidigit_nn::Precision;
use rand::Rng;

/// Images with one bar per digit, whose height encodes the digit, over noise.
pub fn bars(seed: u64, images: usize, height: usize, width: usize) -> Split {
    let mut split = Split {
        height,
        width,
        digits: 2,
        images: Vec::new(),
        targets: Vec::new(),
        labels: Vec::new(),
        index: Vec::new(),
    };
    for n in 0..images {
        let mut rng = rng::stream(seed, "bars", 0, n as u64);
        let digits = [(rng.next_u32() % 10) as u8, (rng.next_u32() % 10) as u8];
        let pixel = |i: usize, noise: u32| {
            let (line, column) = (i / width, i % width);
            let bar = usize::from(digits[column * 2 / width]) * height / 10;
            if (bar..bar + height / 10).contains(&line) { 255 } else { (noise % 64) as u8 }
        };
        split.images.extend((0..height * width).map(|i| pixel(i, rng.next_u32())));
        split.targets.extend(digits);
        split.labels.push(i64::from(digits[0]) * 10 + i64::from(digits[1]));
        split.index.push(n as i64);
    }
    split
}

/// The height and width of small images that a network takes.
pub fn small(model: Model) -> usize {
    match model {
        Model::AlexNet => 44,
        Model::Fcn => 60,
        Model::ResNet => 12,
        Model::Towers | Model::Attention => 16,
    }
}

/// Trains on the unchanged pixels in every epoch.
fn train_plainly(config: &Config, train: &Split, val: &Split, out: &Path) -> Result<train::TrainingSummary, Error> {
    train_watched(config, train, val, out, &Progress::silent())
}

pub fn train_watched(
    config: &Config,
    train: &Split,
    val: &Split,
    out: &Path,
    progress: &Progress,
) -> Result<train::TrainingSummary, Error> {
    let data = Data { digest: Digest::of(b"bars"), epochs: Epochs::plain(train), val, picture: None };
    train::run(config, &data, Digest::of_json(&serde_json::json!(config)), out, progress)
}

pub fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn training_learns_bars_and_evaluation_reads_back_what_it_learned() {
    let (train, val) = (bars(1, 320, 60, 60), bars(2, 200, 60, 60));
    let home = tempfile::tempdir().unwrap();
    let config = Config { model: Model::Fcn, epochs: 3, batch_size: 32, learning_rate: 1e-3, ..Config::default() };
    let summary = train_plainly(&config, &train, &val, home.path()).unwrap();
    assert_eq!((summary.images, summary.steps, summary.epochs.len()), (320, 30, 3));
    let last = &summary.epochs[2];
    assert!(last.val_accuracy > 0.95 && last.train_accuracy > 0.9, "{last:?}");

    let table = std::fs::read_to_string(home.path().join("metrics.csv")).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    let digits = "train_accuracy_1,train_accuracy_2,val_accuracy_1,val_accuracy_2";
    let columns = "epoch,lr,train_loss,train_accuracy,val_loss,val_accuracy,images_per_second,seconds";
    assert_eq!(rows[0], format!("{columns},{digits}"));
    assert_eq!(rows.len(), 4);
    assert!(rows[3].starts_with(&format!("3,0.001,{},{},{},", last.train_loss, last.train_accuracy, last.val_loss)));

    let config = evaluate::Config { batch_size: 64, ..evaluate::Config::default() };
    let weights = home.path().join("weights").join(config.weights.file());
    let splits = [("val", &val), ("test", &train)];
    let whole = evaluate::run(&config, &weights, None, &splits, home.path(), &Progress::silent()).unwrap();
    let metrics = &whole.splits;
    let best = &summary.epochs[summary.best_epoch - 1];
    assert_eq!(metrics[0].accuracy.value, best.val_accuracy);
    // other batches, so the sums differ only in their rounding
    assert!((metrics[0].loss / best.val_loss - 1.0).abs() < 1e-5);
    assert_eq!((metrics[0].samples, metrics[1].samples, metrics[1].split.as_str()), (200, 320, "test"));
    assert_eq!(Metrics::read(&home.path().join("metrics.json")).unwrap(), whole);
    assert_eq!((whole.model, whole.parameters, whole.epoch), (Model::Fcn, 1_761_364, summary.best_epoch));
    check_predictions(&home.path().join("predictions.parquet"), &val, metrics);
}

fn check_predictions(path: &Path, val: &Split, metrics: &[evaluate::SplitMetrics]) {
    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert_eq!(reader.metadata().file_metadata().created_by(), Some("multidigit version 1"));
    let batches: Vec<_> = reader.with_batch_size(1 << 20).build().unwrap().collect::<Result<_, _>>().unwrap();
    let table = arrow::compute::concat_batches(&batches[0].schema(), &batches).unwrap();
    assert_eq!(table.num_rows(), metrics.iter().map(|m| m.samples).sum::<usize>());
    let integers = |name: &str| table.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
    let (index, label, predicted_label) = (integers("index"), integers("label"), integers("predicted_label"));
    let correct = table.column_by_name("correct").unwrap().as_boolean();
    let predicted = table.column_by_name("predicted").unwrap().as_fixed_size_list();
    let split = table.column_by_name("split").unwrap().as_string::<i32>();
    let mut right = 0;
    for row in 0..val.len() {
        assert_eq!((split.value(row), index.value(row), label.value(row)), ("val", val.index[row], val.labels[row]));
        let digits = predicted.value(row);
        let digits = digits.as_primitive::<Int64Type>().values();
        assert_eq!(digits[0] * 10 + digits[1], predicted_label.value(row));
        assert_eq!(correct.value(row), predicted_label.value(row) == label.value(row));
        right += usize::from(correct.value(row));
    }
    assert_eq!(right as f64 / val.len() as f64, metrics[0].accuracy.value);
    assert_eq!(split.value(val.len()), "test");
}

#[test]
fn weights_are_the_same_bits_on_one_thread_on_two_and_again() {
    for model in Model::ALL {
        let size = small(model);
        let (train, val) = (bars(1, 41, size, size), bars(2, 10, size, size));
        let config = Config { model, epochs: 2, batch_size: 20, ..Config::default() };
        let bytes = |threads| {
            let home = tempfile::tempdir().unwrap();
            on_threads(threads, || train_plainly(&config, &train, &val, home.path()).unwrap());
            ["best", "last"].map(|name| std::fs::read(home.path().join(format!("weights/{name}.safetensors"))).unwrap())
        };
        let one = bytes(1);
        assert!(one == bytes(2), "{model}: one thread and two differ");
        assert!(one == bytes(2), "{model}: two runs differ");
    }
}

#[test]
fn a_training_ends_when_the_validation_loss_has_not_fallen_for_long_enough() {
    let (train, val) = (bars(1, 12, 44, 44), bars(2, 10, 44, 44));
    // without batch norm and with a rate that changes nothing, the first epoch stays the best
    let config = Config { epochs: 9, batch_size: 6, learning_rate: 1e-30, stop_after: Some(2), ..Config::default() };
    let notes = Mutex::new(Vec::new());
    let sink = |event: Event| {
        if let Event::Note(note) = event {
            notes.lock().unwrap().push(note.to_owned());
        }
        true
    };
    let home = tempfile::tempdir().unwrap();
    let summary = train_watched(&config, &train, &val, home.path(), &Progress::new(&sink)).unwrap();
    assert_eq!((summary.epochs.len(), summary.best_epoch, summary.steps), (3, 1, 6));
    let last = notes.lock().unwrap().last().cloned();
    assert_eq!(last.as_deref(), Some("ends after epoch 3: the validation loss has not fallen since epoch 1"));
    let learns = Config { learning_rate: 1e-3, epochs: 3, ..config };
    let home = tempfile::tempdir().unwrap();
    let summary = train_watched(&learns, &bars(1, 96, 44, 44), &val, home.path(), &Progress::silent()).unwrap();
    assert_eq!(summary.epochs.len(), 3, "{summary:?}");
}

#[test]
fn every_epoch_asks_for_the_pixels_of_every_image_once() {
    let (train, val) = (bars(1, 9, 8, 8), bars(2, 3, 8, 8));
    // every image of every epoch has a grey value of its own
    let grey = |epoch: usize, image: usize| (16 * epoch + image) as u8;
    let stored = |epoch: usize| {
        let images = (0..train.len()).flat_map(|image| vec![grey(epoch, image); 64]).collect();
        Ok(Some(Split { images, ..train.clone() }))
    };
    let config = Config { model: Model::ResNet, epochs: 2, batch_size: 4, samples: Some(7), ..Config::default() };
    let augment = augment::Config::default();
    let epochs = Epochs::augmented(&train, &augment, stored);
    let data = Data { digest: Digest::of(b"bars"), epochs, val: &val, picture: None };
    let batches = 2 * batch::batch_count(7, 4);
    let mut seen = std::thread::scope(|scope| {
        let mut loader = Loader::start(scope, &config, &data, 7, [0, 0]);
        let mut seen = Vec::new();
        for _ in 0..batches {
            let pixels = loader.take().unwrap().input.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let grey = |pixel: f32| ((f64::from(pixel) * config.std + config.mean) * 255.0).round() as u8;
            seen.extend(pixels.chunks_exact(64).map(|image| grey(image[0])));
        }
        seen
    });
    seen.sort_unstable();
    assert_eq!(seen, (0..2).flat_map(|epoch| (0..7).map(move |image| grey(epoch, image))).collect::<Vec<_>>());
}

#[test]
fn progress_tells_every_batch_and_stops_the_run_when_asked() {
    let (train, val) = (bars(1, 12, 8, 8), bars(2, 3, 8, 8));
    let config = Config { model: Model::ResNet, epochs: 2, batch_size: 4, ..Config::default() };
    let events = Mutex::new(Vec::new());
    let run = |go_on: &(dyn Fn(&Event) -> bool + Sync)| {
        let home = tempfile::tempdir().unwrap();
        let sink = |event: Event| {
            if !matches!(event, Event::Detail(_) | Event::Note(_)) {
                events.lock().unwrap().push(format!("{event:?}"));
            }
            go_on(&event)
        };
        train_watched(&config, &train, &val, home.path(), &Progress::new(&sink))
    };
    run(&|_| true).unwrap();
    let heard = std::mem::take(&mut *events.lock().unwrap());
    let epoch = |n| {
        let begin = format!("Begin {{ what: \"epoch {n}/2\", total: 12, done: 0, unit: \"images\" }}");
        let validation = "Begin { what: \"validation\", total: 3, done: 0, unit: \"images\" }".to_owned();
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let steps = words(&["Advance(4)", "Advance(4)", "Advance(4)", "End"]);
        [vec![begin], steps, vec![validation], words(&["Advance(3)", "End"])].concat()
    };
    assert_eq!(heard, [epoch(1), epoch(2)].concat());
    let stopped = run(&|event| !matches!(event, Event::Advance(_)));
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_says_what_to_try() {
    let (train, val) = (bars(1, 40, 44, 44), bars(2, 3, 44, 44));
    let home = tempfile::tempdir().unwrap();
    let config = Config { learning_rate: 1e30, batch_size: 20, ..Config::default() };
    let error = train_plainly(&config, &train, &val, home.path()).unwrap_err();
    let word: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path().join("stopped.json")).unwrap()).unwrap();
    assert_eq!((&word["step"], &word["epoch"]), (&serde_json::json!(2), &serde_json::json!(1)));
    assert_eq!(word["message"], error.to_string());
    let Some(&TrainError::NotFinite { step, loss, .. }) = error.area() else { panic!("{error}") };
    assert!(step == 2 && !loss.is_finite());
    assert_eq!(
        Error::from(TrainError::NotFinite { step: 2, loss: f64::NAN, rate: 5e-4 }).to_string(),
        "training stopped at step 2: the loss is NaN at learning rate 0.0005; weights saved before stay; try a smaller \
         `train.learning_rate`, or another `train.seed`"
    );
}

#[test]
fn an_empty_split_and_an_image_size_that_does_not_fit_are_refused() {
    let (train, none) = (bars(1, 4, 44, 44), bars(1, 0, 44, 44));
    let home = tempfile::tempdir().unwrap();
    let refusal = |config: &Config, train: &Split, val: &Split| {
        train_plainly(config, train, val, home.path()).unwrap_err().to_string()
    };
    let expected = "the val split holds no images; give it a share in `plan.split.ratio`";
    assert_eq!(refusal(&Config::default(), &train, &none), expected);
    let fcn = Config { model: Model::Fcn, ..Config::default() };
    assert!(refusal(&fcn, &train, &train).starts_with("`train.model`: found fcn for images of 44x44 pixels"));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    let defect = Error::from(multidigit_nn::Error::tensor("shapes differ"));
    assert_eq!(defect.to_string(), "a tensor operation failed: shapes differ; please report this");
}

#[test]
fn weights_that_are_damaged_or_of_another_network_are_refused() {
    let split = bars(1, 4, 8, 8);
    let home = tempfile::tempdir().unwrap();
    let config = Config { model: Model::ResNet, epochs: 1, batch_size: 4, ..Config::default() };
    train_plainly(&config, &split, &split, home.path()).unwrap();
    let path = home.path().join("weights/last.safetensors");
    let whole = std::fs::read(&path).unwrap();
    let (_, description) = weights::load(&path, None, &candle_core::Device::Cpu, Precision::F32).unwrap();
    assert_eq!((description.shape.model, description.epoch, description.mean), (Model::ResNet, 1, 0.1307));

    let evaluate = |split: &Split| {
        let config = evaluate::Config::default();
        let error =
            evaluate::run(&config, &path, None, &[("test", split)], home.path(), &Progress::silent()).unwrap_err();
        error.to_string().replace(&path.display().to_string(), "W")
    };
    assert_eq!(
        evaluate(&bars(1, 4, 8, 9)),
        "`W`: a network for 2 digits on 8x8 pixels; expected 2 digits on 8x9 pixels, as the test split has; train on \
         this data set first"
    );
    std::fs::write(&path, &whole[..1000]).unwrap();
    assert!(evaluate(&split).starts_with("`W`: not readable as safetensors ("));
    // the header is text: names and models can be replaced by others of the same length, as in files without a digest
    let exchanged = |from: &[u8], to: &[u8]| {
        let mut damaged = whole.clone();
        for (from, to) in [(&b"digest"[..], &b"nodige"[..]), (from, to)] {
            let at = whole.windows(from.len()).position(|part| part == from).unwrap();
            damaged[at..at + to.len()].copy_from_slice(to);
        }
        std::fs::write(&path, damaged).unwrap();
        evaluate(&split)
    };
    assert_eq!(exchanged(b"\"bn1.bias\"", b"\"bn9.bias\""), "`W`: no tensor `bn1.bias`; expected one of shape [64]");
    assert_eq!(
        exchanged(b"\"multidigit\"", b"\"multifigit\""),
        "`W`: no `multidigit` in its metadata; expected weights that `multidigit run train` wrote"
    );
    assert!(exchanged(b"resnet", b"reznet").contains("expected a description of the network"));
    assert_eq!(
        exchanged(b"digits\\\":2", b"digits\\\":3"),
        "`W`: no tensor `heads.2.weight`; expected one of shape [10, 512]"
    );
    assert!(exchanged(b"digits\\\":2", b"digits\\\":0").contains("expected 1 to 64 digits and 1 to 4096 pixels in"));
}
