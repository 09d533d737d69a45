//! Benchmarks of the data path on 10,000 samples of DoubleMNIST from synthetic glyphs: drawing the plan, rendering,
//! writing the shards (rendering, PNG, Parquet, digests), reading a split, and the paper's augmentation with its draws.

#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark that panics has failed, as it should"
)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multidigit::augment::apply::Scratch;
use multidigit::augment::{self, Augmenter, By, Compose, Interpolation};
use multidigit::plan::{self, compose::compose};
use multidigit::progress::Progress;
use multidigit::raw::{self, Source};
use multidigit::shards::{DATA, read_split};
use multidigit::{dataset, plan::table};
use rayon::prelude::*;

/// The number of samples in all splits together.
const SAMPLES: u64 = 10_000;

/// The number of pixels of an image.
const AREA: usize = 64 * 64;

/// The number of images that a thread augments at a time.
const BATCH: usize = 64;

fn bench(c: &mut Criterion) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = raw::Config { source: Source::Synthetic, ..raw::Config::default() };
    let glyphs = raw::run(&config, &home.path().join("raw"), &Progress::silent()).expect("glyphs are drawn").glyphs;
    let config = plan::Config { samples_per_class: SAMPLES / 100, ..plan::Config::default() };
    let pool = plan::GlyphSet::new(glyphs.digest(), glyphs.len());
    let (_, content) =
        plan::run(&config, pool, glyphs.labels(), home.path(), &Progress::silent()).expect("the plan is valid");
    let plan = home.path().join(plan::FILE);

    let mut group = c.benchmark_group("data");
    group.sample_size(20).throughput(Throughput::Elements(SAMPLES));
    group.bench_function("plan", |b| {
        b.iter(|| compose(&config, glyphs.labels(), home.path(), &Progress::silent()).expect("the plan is valid"))
    });
    let out = home.path().join("dataset");
    let glyphs = Arc::new(glyphs);
    let write = || {
        let work = dataset::Work::open(&dataset::Config::default(), (&plan, content), glyphs.clone());
        dataset::run(&work.expect("the plan fits the glyphs"), &out, &Progress::silent()).expect("it is written")
    };
    // the benchmarks below read the data set, whichever of them are selected
    write();
    group.bench_function("dataset", |b| b.iter(write));
    group.finish();

    let train = read_split(&out.join(DATA), "train", None).expect("it was just written");
    let mut group = c.benchmark_group("data");
    group.sample_size(20).throughput(Throughput::Elements(train.len() as u64));
    group.bench_function("render", |b| {
        let mut reader = table::Reader::open(&plan, "train").expect("it was just written");
        let rows = reader.take(reader.len() as usize).expect("it was just written");
        b.iter(|| dataset::render::render(&rows, 64, 64, &glyphs));
    });
    group.bench_function("read a split", |b| b.iter(|| read_split(&out.join(DATA), "train", None)));
    // parameters are drawn and applied, from pixels to pixels
    let recipe = augment::Config::default();
    let fused = augment::Config { compose: Compose::Fused, ..recipe.clone() };
    let by_slot = augment::Config { by: By::Slot, ..recipe.clone() };
    let bilinear = augment::Config { interpolation: Interpolation::Bilinear, ..recipe.clone() };
    for (name, config, threads) in [
        ("augment, one thread", &recipe, 1),
        ("augment, two threads", &recipe, 2),
        ("augment fused, one thread", &fused, 1),
        ("augment bilinear, one thread", &bilinear, 1),
        ("augment by slot, one thread", &by_slot, 1),
    ] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
        let augmenter = Augmenter::new(config, 0, 2);
        let mut images = vec![0; train.len() * AREA];
        group.bench_function(name, |b| {
            b.iter(|| {
                pool.install(|| {
                    images.par_chunks_mut(BATCH * AREA).enumerate().for_each_init(
                        Scratch::default,
                        |scratch, (n, out)| {
                            for (i, image) in out.chunks_exact_mut(AREA).enumerate() {
                                let row = n * BATCH + i;
                                let sample = (train.labels[row], train.index[row]);
                                augmenter.apply(sample, train.image(row), (64, 64), image, scratch);
                            }
                        },
                    );
                });
            });
        });
    }
    // the draws alone, to show their share of the time
    group.bench_function("draw, one thread", |b| {
        let augmenter = Augmenter::new(&recipe, 0, 2);
        b.iter(|| {
            for row in 0..train.len() {
                black_box(augmenter.params((train.labels[row], train.index[row]), (64, 64)));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
