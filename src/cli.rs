//! The command line: parses words and flags into one typed value.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use multidigit::config::hints;
use multidigit::export;
use multidigit::pipeline::{Request, Share, Stage};

/// Multi-digit MNIST: exact, staged, reproducible data and training.
#[derive(Debug, Parser)]
#[command(name = "multidigit", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line of this process. Exits if it is invalid, or if it asks for help.
    pub fn read() -> Cli {
        let mut cli = Cli::try_parse().unwrap_or_else(|error| with_tip(error).exit());
        cli.global.overrides = every_set(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()));
        cli
    }
}

/// The error with a tip if a stage was given as a command, or a setting as a flag.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let given = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.trim_start_matches('-').replace('-', "_")),
        _ => None,
    };
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => given(ContextKind::InvalidSubcommand)
            .and_then(|name| hints::nearest(&name, Stage::ALL.map(Stage::name).into_iter()))
            .map(|stage| format!("the stage {stage} is run by `multidigit run {stage}`")),
        ErrorKind::UnknownArgument => given(ContextKind::InvalidArg)
            .map(|name| hints::settings_named(&name))
            .filter(|paths| !paths.is_empty())
            .map(|paths| format!("a setting is changed by --set: `--set {}=VALUE`", paths.join("=VALUE` or `--set "))),
        _ => None,
    };
    if let Some(tip) = tip {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// The values of every `--set`, in order. If some are given after the command's word, clap
/// silently drops those before it.
fn every_set(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut arguments = arguments.into_iter();
    let mut values = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--set=") {
            Some(value) => values.push(value.to_owned()),
            None if argument == "--set" => values.extend(arguments.next()),
            None => {}
        }
    }
    values
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file [default: pipeline.yaml if it exists, else the built-in defaults]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Train by a recipe: a name such as fast, or a .yaml file. It changes settings of the configuration file; --set
    /// changes it further
    #[arg(long, global = true, value_name = "NAME")]
    pub recipe: Option<String>,
    /// Override a setting; repeatable. The value is YAML: `--set 'plan.image_size=[64, 100]'`
    #[arg(long = "set", global = true, value_name = "KEY.PATH=VALUE")]
    pub overrides: Vec<String>,
    /// Folder of the glyph files
    #[arg(long, global = true, value_name = "DIR", default_value = "raw")]
    pub raw: PathBuf,
    /// Folder of all outputs; for `run` with plan, dataset and augment also the address of an object store, such as
    /// s3://BUCKET/PREFIX
    #[arg(long, global = true, value_name = "DIR", default_value = "artifacts")]
    pub artifacts: PathBuf,
    /// Number of threads [default: one per core]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print results, warnings and errors only
    #[arg(long, global = true)]
    pub quiet: bool,
    /// Do not flush files to disk: faster on slow disks, but a power cut can damage the latest output
    #[arg(long, global = true)]
    pub no_sync: bool,
    /// Show no progress bars
    #[arg(long, global = true)]
    pub no_progress: bool,
}

/// The command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Bring stages and their inputs up to date; without a name: the data set and the report
    #[command(after_help = "\
Without a STAGE no network is trained: raw, plan, dataset, augment and report run, which takes seconds. A network is \
trained where `train` or `evaluate` is named; its first line says how long that takes.

A finished run is kept: other settings under its name are refused, more epochs go on from it, --force trains over it.")]
    Run(RunArgs),
    /// Show whether each stage is fresh, and if not, why
    Status,
    /// List the trained runs, the best validation accuracy first
    Runs {
        /// Only this run, by the name of its folder
        #[arg(long, value_name = "NAME")]
        run: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Train and evaluate all combinations of some settings, one after another, and write tables of the results
    #[command(after_help = "\
The file has a `description`, a `grid` with a list of values for each setting, such as `train.seed: [0, 1, 2]`, and \
`settings` for all runs. `recipe` in the grid lists recipes. Finished runs are kept: after an interruption, the same command \
goes on.

Several processes can train the runs of a sweep at the same time, on one machine or on many with one file system: first \
--data, then --run for each run on these data, in the end --commit.")]
    Sweep(SweepArgs),
    /// Write the report about the existing runs, without training or evaluating any
    Report(Report),
    /// Print the graph of the stages
    Dag {
        /// As a Mermaid diagram, for Markdown
        #[arg(long)]
        mermaid: bool,
    },
    /// Recompute all digests and compare them with the records and pipeline.lock
    Verify,
    /// Write pipeline.lock from the existing outputs
    Lock,
    /// Remove the files that the records of stages name; runs and their evaluations stay
    Clean {
        /// Remove the runs and their evaluations too
        #[arg(long)]
        force: bool,
    },
    /// Describe a Parquet or IDX file
    Inspect {
        /// A shard, any other Parquet file, or an IDX file (also with .gz)
        file: PathBuf,
    },
    /// Draw a picture of the work of a stage; the data set must be fresh
    Preview(Preview),
    /// Read the digits in PNG files with a trained network
    Predict(Predict),
    /// Write the data set or a trained network in another form: for other tools, or as a page to try the network on
    #[command(after_help = "\
The data set is taken as it stands in the folder of artifacts. The same input gives the same bytes. Nothing that stands is \
replaced: the folder of an export must be empty or absent.")]
    Export {
        #[command(subcommand)]
        form: Export,
    },
    /// Measure the speed of a stage on this machine
    Bench(Bench),
    /// Print the resolved configuration with its documentation
    ShowConfig,
    /// Print the JSON Schema of pipeline.yaml, or of another file
    Schema {
        /// pipeline: pipeline.yaml; metrics: the metrics.json of an evaluated run
        #[arg(value_name = "FILE", default_value = "pipeline")]
        of: Schema,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, in roff
    Man,
}

/// The sweep.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The YAML file of the sweep, such as sweeps/table1.yaml
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// List the runs, whether each is done, and the time that the others take, and train none
    #[arg(long)]
    pub dry_run: bool,
    /// List the runs as JSON; runs with the same number under `data` are trained on the same data
    #[arg(long, requires = "dry_run")]
    pub json: bool,
    /// Bring the data that this run is trained on up to date, and train none
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run")]
    pub data: Option<String>,
    /// Train and evaluate this run alone, and write no tables; its data must be fresh
    #[arg(long, value_name = "NAME", conflicts_with_all = ["dry_run", "data"])]
    pub run: Option<String>,
    /// Write the tables of the runs that are done, and train none
    #[arg(long, conflicts_with_all = ["dry_run", "data", "run"])]
    pub commit: bool,
}

/// The runs to report on.
#[derive(Debug, Args)]
pub struct Report {
    /// The runs to compare, by name or by pattern: `*` stands for any characters, `?` for any one, as in 'fcn*'
    /// [default: report.runs, else all]
    #[arg(long, alias = "run", value_name = "A,B", value_delimiter = ',')]
    pub runs: Vec<String>,
    /// Write the report even if it is fresh
    #[arg(long)]
    pub force: bool,
}

/// The files that have a schema.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Schema {
    /// `pipeline.yaml`
    Pipeline,
    /// `metrics.json`
    Metrics,
}

/// The images to read, and the network that reads them.
#[derive(Debug, Args)]
pub struct Predict {
    /// PNG files in 8-bit grey, of the size that the network was trained on, light digits on black; folders of them; -
    /// for standard input
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<PathBuf>,
    /// Use the network of this run, by the name of its folder, or of a path: the folder of a run, or a .safetensors file
    /// of weights [default: the run of the configuration]
    #[arg(long, value_name = "NAME|PATH")]
    pub run: Option<String>,
    /// Print JSON, with the probability of every digit
    #[arg(long)]
    pub json: bool,
}

/// The picture to draw, and its size.
#[derive(Debug, Args)]
pub struct Preview {
    /// augment: training images beside their augmentations, with the parameters drawn for each
    #[arg(value_name = "STAGE")]
    pub what: Picture,
    /// Training images, evenly spaced over the split
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    pub rows: u16,
    /// Epochs, from 0
    #[arg(long, value_name = "M", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    pub epochs: u16,
    /// The PNG file to write [default: preview-augment.png in the folder of all outputs]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The pictures that can be drawn. This is a value, not a subcommand, so that global flags may come before or after it.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Picture {
    /// The stage `augment`
    Augment,
}

/// What is exported, and in which form.
#[derive(Debug, Subcommand)]
pub enum Export {
    #[command(flatten)]
    DataSet(Form),
    /// A trained network as an ONNX file: uint8 images in, the logits of each digit out
    Onnx(Onnx),
    /// A trained network as a web page that reads the digits that a visitor draws, without a server
    Demo(Demo),
}

/// The network to export, and where to.
#[derive(Debug, Args)]
pub struct Onnx {
    /// The network of this run, by the name of its folder, or of a path: the folder of a run, or a .safetensors file of
    /// weights [default: the run of the configuration]
    #[arg(long, value_name = "NAME|PATH")]
    pub run: Option<String>,
    /// The file to write [default: export/RUN.onnx in the folder of all outputs]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The network to show, and where to.
#[derive(Debug, Args)]
pub struct Demo {
    /// The network of this run, by the name of its folder, or of a path: the folder of a run, or a .safetensors file of
    /// weights [default: the run of the configuration]
    #[arg(long, value_name = "NAME|PATH")]
    pub run: Option<String>,
    /// The file to write [default: export/RUN-demo.html in the folder of all outputs]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// The forms of a data set.
#[derive(Debug, Subcommand)]
pub enum Form {
    /// PNG files in the reference generator's folders: SPLIT/CLASS/INDEX_CLASS.png
    Tree(Place),
    /// Tar files with PNG, label and columns of each image: SPLIT-NNNNNN.tar
    Webdataset(Place),
    /// PNG files with a box and a category for each digit, for COCO and YOLO
    Coco(Place),
    /// NumPy arrays in one file: x_SPLIT, y_SPLIT and digits_SPLIT in multidigit.npz
    Npz(Place),
    /// Few-shot episodes as a table that names images of the shards: episodes.parquet
    Episodes(Episodes),
}

/// What is exported, and where to.
#[derive(Debug, Args)]
pub struct Place {
    /// The splits to export [default: train,val,test]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub splits: Vec<String>,
    /// The folder to write [default: export/FORM in the folder of all outputs]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// The episodes to draw.
#[derive(Debug, Args)]
pub struct Episodes {
    #[command(flatten)]
    pub place: Place,
    /// Classes per episode
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub ways: u16,
    /// Images of each class to learn from
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub shots: u16,
    /// Further images of each class to be tested on
    #[arg(long, value_name = "Q", default_value_t = 15)]
    pub queries: u16,
    /// Episodes per split
    #[arg(long, value_name = "M", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub episodes: u32,
    /// Seed of the draws
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

impl From<Form> for (export::Form, Place) {
    fn from(form: Form) -> (export::Form, Place) {
        match form {
            Form::Tree(place) => (export::Form::Tree, place),
            Form::Webdataset(place) => (export::Form::Webdataset, place),
            Form::Coco(place) => (export::Form::Coco, place),
            Form::Npz(place) => (export::Form::Npz, place),
            Form::Episodes(Episodes { place, ways, shots, queries, episodes, seed }) => {
                let [ways, shots, queries] = [ways, shots, queries].map(usize::from);
                let config = export::episodes::Config { ways, shots, queries, episodes: episodes.into(), seed };
                (export::Form::Episodes(config), place)
            }
        }
    }
}

/// The stage to measure, and for how long.
#[derive(Debug, Args)]
pub struct Bench {
    /// train: steps of the network with and without the data path, and evaluation; needs no data set
    #[arg(value_name = "STAGE")]
    pub what: Measured,
    /// Steps of each kind
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Use the settings of this run, by the name of its folder [default: those of the configuration]
    #[arg(long, value_name = "NAME")]
    pub run: Option<String>,
    /// Also show the time of each layer
    #[arg(long)]
    pub profile: bool,
}

/// The stages that can be measured.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Measured {
    /// The stage `train`
    Train,
}

/// The stages to run, and how.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[arg(value_name = "STAGE", help = Stage::ALL.map(Stage::name).join(", "))]
    pub stages: Vec<Stage>,
    /// Work on this run, by the name of its folder, with the settings of its own config.yaml; an evaluation
    /// takes it as it is
    #[arg(long, value_name = "NAME", requires = "stages")]
    pub run: Option<String>,
    /// Run the named stages even if they are fresh; with `train`, train over a finished run
    #[arg(long)]
    pub force: bool,
    /// Run only these stages; their inputs must be fresh
    #[arg(long, requires = "stages")]
    pub single: bool,
    /// Also run every stage below the named ones
    #[arg(long, requires = "stages")]
    pub downstream: bool,
    /// Show what would run and why, and run nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Write a share of the stage's shards, for work in several processes: part I of N, counted from 0
    #[arg(long, value_name = "I/N", requires = "stages", conflicts_with_all = ["run", "force", "single", "downstream", "dry_run"])]
    pub part: Option<Share>,
    /// Put the stage in place once its parts have written all shards
    #[arg(long, requires = "stages", conflicts_with_all = ["part", "run", "force", "single", "downstream", "dry_run"])]
    pub commit: bool,
}

impl From<RunArgs> for Request {
    fn from(run: RunArgs) -> Request {
        let RunArgs { stages, run, force, single, downstream, dry_run, part: _, commit: _ } = run;
        Request { stages, force, single, downstream, dry_run, as_they_stand: run.is_some() }
    }
}

/// The completion script for a shell.
pub fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "multidigit", &mut out);
    out
}

/// The manual page: the page of the program, followed by the arguments of every command.
pub fn man() -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let program = Cli::command();
    clap_mangen::Man::new(program.clone()).render(&mut out)?;
    pages(&program, "MULTIDIGIT", &mut out)?;
    Ok(out)
}

/// The arguments of the commands of a command, at any depth.
fn pages(command: &clap::Command, path: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name().to_uppercase());
        let page = clap_mangen::Man::new(command.clone());
        out.extend_from_slice(format!(".SH \"{path}\"\n").as_bytes());
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        pages(command, &path, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_counts_wherever_it_stands() {
        let line = "multidigit --set a=1 run --set=b=2 plan --set c=3 --quiet";
        assert_eq!(every_set(line.split(' ').map(str::to_owned)), ["a=1", "b=2", "c=3"]);
    }

    #[test]
    fn a_stage_as_a_command_and_a_setting_as_a_flag_get_a_tip() {
        let told = |line: &str| with_tip(Cli::try_parse_from(line.split(' ')).unwrap_err()).to_string();
        let cases = [
            ("multidigit train", "tip: the stage train is run by `multidigit run train`"),
            ("multidigit datset", "tip: the stage dataset is run by `multidigit run dataset`"),
            ("multidigit run train --model fcn", "tip: a setting is changed by --set: `--set train.model=VALUE`"),
            ("multidigit run train --lr 1", "tip: a setting is changed by --set: `--set train.learning_rate=VALUE`"),
            ("multidigit run datset", "did you mean dataset?"),
            ("multidigit runn", "tip: some similar subcommands exist: 'runs', 'run'"),
        ];
        for (line, tip) in cases {
            assert!(told(line).contains(tip), "{line}: {}", told(line));
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
