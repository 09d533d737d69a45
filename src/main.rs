//! The program: parses the command line, runs the command, prints an error once and returns the exit code: 0 for
//! success, 1 if a stage failed, 2 for invalid flags or configuration, 130 if interrupted (143 by SIGTERM).

#![forbid(unsafe_code)]

mod cli;
mod output;
mod terminal;

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use multidigit::config::{self, Config};
use multidigit::error::{Error, Result};
use multidigit::evaluate::Metrics;
use multidigit::files::sync;
use multidigit::pipeline::PipelineError;
#[cfg(feature = "cloud")]
use multidigit::pipeline::Remote;
use multidigit::pipeline::{self, Outcome, Pipeline, Stage, lock, stage};
use multidigit::progress::Progress;
use multidigit::recipe::Recipe;
use multidigit::runs::{Run, Runs, Summary, WeightsFile};
use multidigit::sweep::{Planned, Sweep};
use multidigit::{export, inspect, predict, preview, rng, train};

use crate::cli::{
    Bench, Cli, Command, Demo, Export, Global, Measured, Onnx, Picture, Place, Predict, Preview, Report, RunArgs,
    Schema, SweepArgs, completions, man,
};
use crate::terminal::{Terminal, catch_signals, complain, interrupted};

fn main() -> ExitCode {
    match rng::check_system().and_then(|()| run(Cli::read())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}"));
            match error {
                Error::Interrupted => ExitCode::from(interrupted()),
                _ if error.is_configuration() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(Cli { global, command }: Cli) -> Result<()> {
    if let Some(address) = address(&global) {
        return match command {
            Command::Run(run) => run_in_store(&global, address, run),
            _ => Err(Error::value(
                "--artifacts",
                "the address of an object store",
                "a folder: only `run` knows addresses",
            )),
        };
    }
    match command {
        Command::Inspect { file } => print(&inspect::inspect(&file)?),
        Command::Schema { of: Schema::Pipeline } => print(&format!("{:#}\n", Config::schema())),
        Command::Schema { of: Schema::Metrics } => print(&format!("{:#}\n", Metrics::schema())),
        Command::Completions { shell } => write(&completions(shell)),
        Command::Man => write(&man().map_err(Error::io(Path::new("the manual page"), "write it"))?),
        Command::ShowConfig => {
            let recipe = recipe(&global)?.map_or_else(String::new, |recipe| recipe.comment());
            print(&(recipe + &configuration(&global, None)?.document()))
        }
        Command::Dag { mermaid: true } => print(&stage::mermaid(&configuration(&global, None)?)),
        Command::Dag { mermaid: false } => print(&stage::text(&configuration(&global, None)?)),
        Command::Bench(Bench { what: Measured::Train, run, steps, profile }) => {
            let Config { plan, augment, train, .. } = configuration(&global, run.as_deref())?;
            at_work(&global, |progress| {
                let report = train::bench::run(&train, &augment, plan.digits, plan.image_size, steps.into(), progress)?;
                print(&output::bench(&report, profile))
            })
        }
        Command::Run(run) => {
            let config = configuration(&global, run.run.as_deref())?;
            in_pipeline(&global, config, |pipeline, progress| match (run.part, run.commit) {
                (Some(share), _) => run.stages.iter().try_for_each(|&stage| {
                    let part = pipeline.run_part(stage, share, progress)?;
                    print(&output::part(stage, share, &part))
                }),
                (None, true) => {
                    run.stages.iter().try_for_each(|&stage| tell(stage, &pipeline.commit(stage, progress)?))
                }
                (None, false) => pipeline.run(&run.into(), progress, &mut tell),
            })
        }
        Command::Sweep(SweepArgs { file, dry_run, json, data, run, commit }) => {
            if global.recipe.is_some() {
                let expected = "no such flag, as the file of a sweep names its recipes in `grid`";
                return Err(Error::value("--recipe", "one beside a sweep", expected));
            }
            set_threads(&global)?;
            let base = Config::read(configuration_file(&global))?;
            let sweep = Sweep::read(&file, &base, &global.overrides)?;
            let pipeline = |run: &Planned| pipeline(&global, run.config.clone(), run.changes.clone());
            at_work(&global, |progress| {
                if dry_run {
                    let runs = sweep.expect(&global.artifacts, pipeline)?;
                    return print(&if json { output::json(&runs) } else { output::expectations(&runs) });
                }
                if let Some(name) = &data {
                    let run = sweep.named("--data", name)?;
                    return pipeline(run).run(&run.data(), progress, &mut tell);
                }
                if let Some(name) = &run {
                    let run = sweep.named("--run", name)?;
                    return print(&output::result(&run.train(&pipeline(run), progress)?));
                }
                match commit {
                    true => sweep.commit(&global.artifacts, pipeline, progress)?,
                    false => {
                        sweep.run(&global.artifacts, pipeline, progress, &mut |run| print(&output::result(run)))?
                    }
                }
                print(&output::tables(&sweep.tables(&global.artifacts)))
            })
        }
        Command::Report(Report { runs, force }) => {
            let mut config = configuration(&global, None)?;
            if !runs.is_empty() {
                config.report.runs = runs;
            }
            in_pipeline(&global, config, |pipeline, progress| pipeline.report(force, progress, &mut tell))
        }
        Command::Status => in_pipeline(&global, configuration(&global, None)?, |pipeline, _| {
            print(&output::status(&pipeline.status()?))
        }),
        Command::Runs { run, json } => in_pipeline(&global, configuration(&global, None)?, |pipeline, progress| {
            let runs = Runs::new(pipeline.artifacts()).list(run.as_deref())?;
            let runs: Vec<Summary> = runs.iter().map(Run::summary).collect();
            for run in &runs {
                run.problems.iter().for_each(|problem| progress.warn(&format!("run {}: {problem}", run.run)));
            }
            print(&if json { output::json(&runs) } else { output::runs(&runs) })
        }),
        Command::Clean { force } => in_pipeline(&global, configuration(&global, None)?, |pipeline, _| {
            print(&output::cleaned(&pipeline.clean(force)?))
        }),
        Command::Lock => in_pipeline(&global, configuration(&global, None)?, |pipeline, _| {
            print(&format!("wrote {}\n", pipeline.lock()?.display()))
        }),
        Command::Preview(Preview { what: Picture::Augment, rows, epochs, out }) => {
            in_pipeline(&global, configuration(&global, None)?, |pipeline, _| {
                let path = preview::augment(pipeline, rows.into(), epochs.into(), out)?;
                print(&format!("{}\n", path.display()))
            })
        }
        Command::Predict(Predict { images, run, json }) => {
            let weights = weights(&global, run.as_deref())?;
            at_work(&global, |progress| tell_predictions(&weights, &images, json, progress))
        }
        Command::Export { form: Export::Onnx(Onnx { run, out }) } => {
            let weights = weights(&global, run.as_deref())?;
            in_pipeline(&global, Config::default(), |pipeline, _| {
                print(&format!("{}\n", export::onnx::export(pipeline, &weights, out)?.display()))
            })
        }
        Command::Export { form: Export::Demo(Demo { run, out }) } => {
            let weights = weights(&global, run.as_deref())?;
            in_pipeline(&global, Config::default(), |pipeline, _| {
                print(&format!("{}\n", export::demo::export(pipeline, &weights, out)?.display()))
            })
        }
        Command::Export { form: Export::DataSet(form) } => {
            let (form, Place { splits, out }) = form.into();
            in_pipeline(&global, configuration(&global, None)?, |pipeline, progress| {
                let folder = export::export(pipeline, &form, &splits, out, progress)?;
                print(&format!("{}\n", folder.display()))
            })
        }
        Command::Verify => in_pipeline(&global, configuration(&global, None)?, |pipeline, progress| {
            let verdicts = pipeline.verify(progress)?;
            print(&output::verdicts(&verdicts))?;
            match verdicts.iter().map(|verdict| verdict.differences.len()).sum() {
                0 => Ok(()),
                differences => Err(Error::from(PipelineError::Differences { differences })),
            }
        }),
    }
}

/// The configuration file named on the command line, or the file of the default name if it exists.
fn configuration_file(global: &Global) -> Option<&Path> {
    let default = Path::new(config::FILE);
    global.config.as_deref().or(default.exists().then_some(default))
}

/// The recipe that the command line names.
fn recipe(global: &Global) -> Result<Option<Recipe>> {
    global.recipe.as_deref().map(|word| Recipe::find("--recipe", word)).transpose()
}

/// The configuration of a command: that of the named run, or else of the configuration file with the recipe. The
/// overrides are applied to it.
fn configuration(global: &Global, run: Option<&str>) -> Result<Config> {
    set_threads(global)?;
    let own = |flag| Err(Error::value(flag, "one beside --run", "one of the two: a run has its own settings"));
    match run {
        None => {
            let file = Config::read(configuration_file(global))?;
            let config = match recipe(global)? {
                None => file.with_all(&global.overrides)?,
                Some(recipe) => recipe.configure(&file, |config| config.with_all(&global.overrides))?,
            };
            config.validate()?;
            Ok(config)
        }
        Some(_) if global.config.is_some() => own("--config"),
        Some(_) if global.recipe.is_some() => own("--recipe"),
        Some(run) => pipeline::config_of(&global.artifacts, run, &global.overrides),
    }
}

/// The weights of a run, by its name or its path, or else of the run of the configuration.
fn weights(global: &Global, run: Option<&str>) -> Result<WeightsFile> {
    match run.filter(|run| run.contains(['/', '\\']) || run.ends_with(".safetensors")) {
        Some(path) => {
            set_threads(global)?;
            WeightsFile::at(Path::new(path))
        }
        None => {
            let config = configuration(global, run)?;
            let which = config.evaluate.weights;
            let pipeline = pipeline(global, config, Vec::new());
            WeightsFile::of_run(&Runs::new(pipeline.artifacts()), &pipeline.folder(Stage::Train), which)
        }
    }
}

/// Sets the number of threads. This must precede all computation: the configuration of a run is compared with its record.
fn set_threads(global: &Global) -> Result<()> {
    if let Some(threads) = global.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.map_err(|error| Error::value("--threads", threads, format!("threads that can be started ({error})")))?;
    }
    Ok(())
}

/// Does work that takes time. Its progress is shown on the terminal, and Ctrl-C ends it at the next suitable point.
fn at_work(global: &Global, work: impl FnOnce(&Progress) -> Result<()>) -> Result<()> {
    if global.no_sync {
        sync::leave_to_the_system();
    }
    catch_signals();
    let terminal = Terminal::new(global.quiet, !global.no_progress);
    let sink = |event: multidigit::progress::Event<'_>| terminal.show(event);
    work(&Progress::new(&sink))
}

/// Does work on the pipeline in the folders named on the command line.
fn in_pipeline(global: &Global, config: Config, work: impl FnOnce(&Pipeline, &Progress) -> Result<()>) -> Result<()> {
    let recipe = global.recipe.iter().map(|recipe| format!("--recipe {recipe}"));
    let changes = recipe.chain(global.overrides.iter().map(|text| format!("--set {text}"))).collect();
    let pipeline = pipeline(global, config, changes);
    at_work(global, |progress| work(&pipeline, progress))
}

/// Runs stages whose outputs lie in an object store.
#[cfg(feature = "cloud")]
fn run_in_store(global: &Global, address: &str, run: RunArgs) -> Result<()> {
    let flags = [
        ("--run", run.run.is_some()),
        ("--force", run.force),
        ("--single", run.single),
        ("--downstream", run.downstream),
        ("--dry-run", run.dry_run),
    ];
    if let Some((flag, _)) = flags.into_iter().find(|(_, is_given)| *is_given) {
        return Err(Error::value(flag, "one beside the address of an object store", "a folder for --artifacts"));
    }
    let config = configuration(global, None)?;
    at_work(global, |progress| {
        let remote = Remote::open(address, config, global.raw.clone(), lock_file(global), *progress)?;
        match (run.part, run.commit) {
            (Some(share), _) => run.stages.iter().try_for_each(|&stage| {
                let part = remote.run_part(stage, share)?;
                print(&output::part(stage, share, &part))
            }),
            (None, true) => run.stages.iter().try_for_each(|&stage| tell(stage, &remote.commit(stage)?)),
            (None, false) => remote.run(&run.stages, &mut tell),
        }
    })
}

/// The address of an object store, if the flag for the folder of artifacts holds one. The names of Windows's drives have one letter.
fn address(global: &Global) -> Option<&str> {
    let text = global.artifacts.to_str()?;
    let (scheme, _) = text.split_once(":/")?;
    (scheme.len() > 1 && scheme.chars().all(|letter| letter.is_ascii_alphanumeric())).then_some(text)
}

/// Refuses the address of an object store.
#[cfg(not(feature = "cloud"))]
fn run_in_store(_: &Global, _: &str, _: RunArgs) -> Result<()> {
    let expected = "a folder: this program was built without the feature `cloud` (`cargo build --features cloud`)";
    Err(Error::value("--artifacts", "the address of an object store", expected))
}

/// The pipeline in the folders named on the command line. `changes` are the flags that changed its configuration.
fn pipeline(global: &Global, config: Config, changes: Vec<String>) -> Pipeline {
    let (raw, artifacts) = (global.raw.clone(), global.artifacts.clone());
    Pipeline::new(config, changes, raw, artifacts, lock_file(global))
}

/// The path of `pipeline.lock`, beside the configuration file.
fn lock_file(global: &Global) -> PathBuf {
    configuration_file(global).unwrap_or(Path::new(config::FILE)).with_file_name(lock::FILE)
}

/// Prints the answers of a network for pictures. A picture that cannot be read is reported, and is an error in the end.
fn tell_predictions(weights: &WeightsFile, images: &[PathBuf], json: bool, progress: &Progress) -> Result<()> {
    let pictures = predict::pictures(images)?;
    let mut predictions = Vec::new();
    let mut failures = Vec::new();
    for answer in predict::predict(weights, &pictures)? {
        match answer {
            Ok(prediction) => predictions.push(prediction),
            Err(error) => failures.push(error),
        }
    }
    for prediction in predictions.iter().filter(|prediction| !prediction.light_on_dark) {
        let image = prediction.image.display();
        progress.warn(&format!("`{image}`: dark digits on light ground? the network knows light ones on black"));
    }
    if !predictions.is_empty() {
        print(&if json { output::json(&predictions) } else { output::predictions(&predictions) })?;
    }
    match failures.pop() {
        None => Ok(()),
        Some(last) => {
            failures.iter().for_each(|error| complain(&format!("error: {error}")));
            Err(last)
        }
    }
}

/// Prints the outcome of a stage.
fn tell(stage: Stage, outcome: &Outcome) -> Result<()> {
    print(&output::outcome(stage, outcome))
}

fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // the reader of the output has closed it; the work continues, with its own exit code
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::io(Path::new("standard output"), "write to it")),
    }
}
