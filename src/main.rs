//! Parse, run, print the error once, leave with the exit code: 0 ok, 1 a stage failed, 2 bad flags or configuration,
//! 130 interrupted (143 by SIGTERM).

#![forbid(unsafe_code)]

use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use multidigit::cli::{Bench, Cli, Command, Measured, Picture, Predict, Preview, Report, Schema, completions, man};
use multidigit::config::{self, Config};
use multidigit::error::{Error, Result};
use multidigit::evaluate::Metrics;
use multidigit::files::sync;
use multidigit::pipeline::{self, Pipeline, lock, stage};
use multidigit::progress::Progress;
use multidigit::runs::{Run, Summary};
use multidigit::terminal::{Terminal, catch_signals, complain, interrupted};
use multidigit::{inspect, results, rng, train};

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

fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Inspect { file } => return print(&inspect::inspect(&file)?),
        Command::Schema { of: Schema::Pipeline } => return print(&format!("{:#}\n", Config::schema())),
        Command::Schema { of: Schema::Metrics } => return print(&format!("{:#}\n", Metrics::schema())),
        Command::Completions { shell } => return write(&completions(shell)),
        Command::Man => return write(&man().map_err(Error::io(Path::new("the manual page"), "write it"))?),
        _ => {}
    }
    let global = cli.global;
    if let Some(threads) = global.threads {
        // before anything computes: the configuration of a run is compared with its record
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.map_err(|error| Error::value("--threads", threads, format!("threads that can be started ({error})")))?;
    }
    let default = Path::new(config::FILE);
    let file = global.config.as_deref().or(default.exists().then_some(default));
    let mut config = match cli.command.run() {
        None => Config::load(file, &global.overrides)?,
        Some(run) if global.config.is_some() => {
            return Err(Error::value("--config", "one beside --run", format!("one of the two: run {run} has its own")));
        }
        Some(run) => pipeline::config_of(&global.artifacts, run, &global.overrides)?,
    };
    match cli.command {
        Command::ShowConfig => return print(&config.document()),
        Command::Dag { mermaid: true } => return print(&stage::mermaid(&config)),
        Command::Dag { mermaid: false } => return print(&stage::text(&config)),
        _ => {}
    }
    if let Command::Report(Report { runs, .. }) = &cli.command
        && !runs.is_empty()
    {
        config.report.runs = runs.clone();
    }
    if global.no_sync {
        sync::leave_to_the_system();
    }
    catch_signals();
    let terminal = Terminal::new(global.quiet, !global.no_progress);
    let sink = |event: multidigit::progress::Event<'_>| terminal.show(event);
    let progress = Progress::new(&sink);
    if let Command::Bench(Bench { what: Measured::Train, steps, profile, .. }) = cli.command {
        let Config { plan, augment, train, .. } = &config;
        let report = train::bench::run(train, augment, plan.digits, plan.image_size, steps.into(), &progress)?;
        return print(&results::bench(&report, profile));
    }
    let lock_file = file.unwrap_or(default).with_file_name(lock::FILE);
    let pipeline = Pipeline::new(config, global.overrides, global.raw, global.artifacts, lock_file);
    match cli.command {
        Command::Run(run) => {
            pipeline.run(&run.into(), &progress, &mut |stage, outcome| print(&results::outcome(stage, outcome)))
        }
        Command::Status => print(&results::status(&pipeline.status()?, pipeline.unfinished_beside().as_deref())),
        Command::Runs { run, json } => {
            let runs: Vec<Summary> = pipeline.runs(run.as_deref())?.iter().map(Run::summary).collect();
            for run in &runs {
                run.problems.iter().for_each(|problem| progress.warn(&format!("run {}: {problem}", run.run)));
            }
            print(&if json { results::json(&runs) } else { results::runs(&runs) })
        }
        Command::Report(Report { force, .. }) => {
            let tell = &mut |stage, outcome: &_| print(&results::outcome(stage, outcome));
            pipeline.report(force, &progress, tell)
        }
        Command::Clean { force } => print(&results::cleaned(&pipeline.clean(force)?)),
        Command::Lock => print(&format!("wrote {}\n", pipeline.lock()?.display())),
        Command::Preview(Preview { what: Picture::Augment, rows, epochs, out }) => {
            let path = pipeline.preview_augment(rows.into(), epochs.into(), out)?;
            print(&format!("{}\n", path.display()))
        }
        Command::Predict(Predict { images, json, .. }) => {
            let answers = pipeline.predict(&images)?;
            for answer in answers.iter().filter(|answer| !answer.light_on_dark) {
                let image = answer.image.display();
                progress
                    .warn(&format!("`{image}`: dark digits on light ground? the network knows light ones on black"));
            }
            print(&if json { results::json(&answers) } else { results::answers(&answers) })
        }
        Command::Verify => {
            let verdicts = pipeline.verify(&progress)?;
            print(&results::verdicts(&verdicts))?;
            match verdicts.iter().map(|verdict| verdict.differences.len()).sum() {
                0 => Ok(()),
                differences => Err(Error::Differences { differences }),
            }
        }
        _ => Ok(()), // answered above
    }
}

fn print(text: &str) -> Result<()> {
    write(text.as_bytes())
}

fn write(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // whoever read our output has seen enough; the work goes on, and its exit code is its own
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Error::io(Path::new("standard output"), "write to it")),
    }
}
