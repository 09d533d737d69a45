//! The data path on 10,000 samples of DoubleMNIST out of synthetic glyphs: drawing the plan, rendering, and writing the
//! shards (rendering, PNG, Parquet, digests), the paper's augmentation, and reading a split back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use multidigit::augment::{self, Augmenter};
use multidigit::plan::{self, compose::compose};
use multidigit::progress::Progress;
use multidigit::raw::{self, Source};
use multidigit::shards::{DATA, read_split};
use multidigit::{dataset, plan::table};

/// Samples in all splits together.
const SAMPLES: u64 = 10_000;

fn bench(c: &mut Criterion) {
    let home = tempfile::tempdir().expect("a temporary folder");
    let config = raw::Config { source: Source::Synthetic, ..raw::Config::default() };
    let glyphs = raw::run(&config, &home.path().join("raw"), &Progress::silent()).expect("glyphs are drawn").glyphs;
    let config = plan::Config { samples_per_class: SAMPLES / 100, ..plan::Config::default() };
    let pool = plan::Glyphs { name: "synthetic".into(), digest: glyphs.digest(), count: glyphs.len() };
    plan::run(&config, pool, glyphs.labels(), home.path(), &Progress::silent()).expect("the plan is valid");
    let plan = home.path().join(plan::FILE);

    let mut group = c.benchmark_group("data");
    group.sample_size(20).throughput(Throughput::Elements(SAMPLES));
    group.bench_function("plan", |b| b.iter(|| compose(&config, glyphs.labels()).expect("the plan is valid")));
    let out = home.path().join("dataset");
    let config = dataset::Config::default();
    // Before any measurement: with a filter, the benchmark that writes it may not run.
    dataset::run(&config, &plan, &glyphs, &out, &Progress::silent()).expect("it is written");
    group.bench_function("dataset", |b| {
        b.iter(|| dataset::run(&config, &plan, &glyphs, &out, &Progress::silent()).expect("it is written"));
    });
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
    group.bench_function("augment, one thread", |b| {
        let augmenter = Augmenter::new(&augment::Config::default(), 0);
        let (mut image, mut scratch) = (vec![0; 64 * 64], augment::apply::Scratch::default());
        b.iter(|| {
            for row in 0..train.len() {
                let sample = (train.labels[row], train.index[row]);
                augmenter.apply(sample, train.image(row), (64, 64), &mut image, &mut scratch);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
