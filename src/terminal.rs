//! Progress on the terminal: progress bars and notes on stderr, and the signals that request a stop.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use clap::builder::styling::Styles;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use multidigit::progress::Event;

/// Whether a signal has requested a stop.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// The number of that signal.
static SIGNAL: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// From now on, Ctrl-C (and SIGTERM) requests a stop at the next suitable point; a second signal ends the process.
/// Closing the terminal (SIGHUP) ends the process at once, unless `nohup` prevents it.
pub fn catch_signals() {
    for signal in [SIGINT, SIGTERM] {
        // the three actions run in this order, so that the flag is not yet set at the first signal
        let caught = flag::register_conditional_shutdown(signal, 128 + signal, INTERRUPTED.clone())
            .and_then(|_| flag::register_usize(signal, SIGNAL.clone(), signal as usize))
            .and_then(|_| flag::register(signal, INTERRUPTED.clone()));
        if let Err(error) = caught {
            complain(&format!("warning: signal {signal} ends the program at once: {error}"));
        }
    }
}

/// The exit code of an interrupted program by the convention of shells: 128 plus the number of the signal.
pub fn interrupted() -> u8 {
    let signal = SIGNAL.load(Ordering::SeqCst).max(SIGINT as usize);
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}

/// The destination of events.
pub struct Terminal {
    quiet: bool,
    bars: bool,
    bar: Mutex<Option<ProgressBar>>,
}

impl Terminal {
    /// `quiet` suppresses notes; `bars` allows progress bars if stderr is a terminal.
    pub fn new(quiet: bool, bars: bool) -> Terminal {
        Terminal { quiet, bars: bars && !quiet, bar: Mutex::new(None) }
    }

    /// Shows an event. Returns whether the work should continue.
    pub fn show(&self, event: Event) -> bool {
        // A bar remains usable after another thread panicked while drawing it.
        let mut bar = self.bar.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match event {
            Event::Begin { what, total, done, unit } => {
                if let Some(old) = bar.take() {
                    old.finish_and_clear();
                }
                let new = bar.insert(self.new_bar(what, total, unit));
                new.set_position(done);
                new.reset_eta(); // the rate is that of this session
            }
            Event::Advance(units) => bar.iter().for_each(|bar| bar.inc(units)),
            Event::Detail(text) => bar.iter().for_each(|bar| bar.set_message(text.to_owned())),
            Event::End => {
                if let Some(bar) = bar.take() {
                    bar.finish_and_clear();
                }
            }
            Event::Note(_) if self.quiet => {}
            Event::Note(sentence) => print_above(bar.as_ref(), sentence),
            Event::Warn(sentence) => print_above(bar.as_ref(), &format!("warning: {sentence}")),
        }
        !INTERRUPTED.load(Ordering::SeqCst)
    }

    fn new_bar(&self, what: &str, total: u64, unit: &str) -> ProgressBar {
        let target = if self.bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let counts = match unit {
            "bytes" => "{bytes}/{total_bytes} ({bytes_per_sec}, {eta})".to_owned(),
            _ => format!("{{human_pos}}/{{human_len}} {unit} ({{rate}}, {{eta}})"),
        };
        // one line of 80 columns, where the message gives way
        let template = format!("{{prefix}} [{{bar:16}}] {counts} {{wide_msg}}");
        let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let write_rate = |state: &ProgressState, out: &mut dyn Write| {
            let _ = out.write_str(&rate(state.per_sec()));
        };
        let style = style.with_key("rate", write_rate);
        ProgressBar::with_draw_target(Some(total), target).with_style(style).with_prefix(what.to_owned())
    }
}

/// A rate of units per second with three digits, or as a whole number if that has more.
fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 99.95 => format!("{}/s", HumanCount(rate.round() as u64)),
        rate if rate >= 9.995 => format!("{rate:.1}/s"),
        rate => format!("{rate:.2}/s"),
    }
}

/// Prints a line on stderr, above the bar if there is one.
fn print_above(bar: Option<&ProgressBar>, line: &str) {
    match bar {
        Some(bar) => bar.suspend(|| complain(line)),
        None => complain(line),
    }
}

/// Prints a line on stderr and ignores failures. If stderr cannot be written, such as a log file on a full disk, nobody
/// can be told, and a lost line is no reason to end a long training. `eprintln!` would panic. On a terminal, `error:` and
/// `warning:` have clap's colours, unless the environment says otherwise (`NO_COLOR`, `CLICOLOR_FORCE`).
pub fn complain(line: &str) {
    let _ = std::io::Write::write_all(&mut anstream::stderr(), format!("{}\n", coloured(line)).as_bytes());
}

/// A line whose first word is in the colour of its kind.
fn coloured(line: &str) -> String {
    let styles = Styles::styled();
    let kinds = [("error:", styles.get_error()), ("warning:", styles.get_invalid())];
    let kind = kinds.into_iter().find_map(|(word, style)| Some((word, style, line.strip_prefix(word)?)));
    kind.map_or_else(|| line.to_owned(), |(word, style, rest)| format!("{style}{word}{style:#}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_three_digits_or_is_a_whole_number() {
        let told = [68_062.5, 885.6, 99.96, 99.9, 12.345, 9.996, 0.5, 0.0].map(rate);
        assert_eq!(told, ["68,063/s", "886/s", "100/s", "99.9/s", "12.3/s", "10.0/s", "0.50/s", "0.00/s"]);
    }

    #[test]
    fn the_first_word_of_an_error_or_a_warning_is_coloured() {
        assert_eq!(coloured("error: lost"), "\u{1b}[1m\u{1b}[31merror:\u{1b}[0m lost");
        assert_eq!(coloured("warning: late"), "\u{1b}[33mwarning:\u{1b}[0m late");
        assert_eq!(coloured("an error: no"), "an error: no");
    }
}
