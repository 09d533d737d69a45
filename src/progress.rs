//! Reports the progress of a stage, and tells the stage when to stop.
//!
//! Library code never prints. It sends [`Event`]s to one closure. If the closure returns `false`, the user wants to
//! stop, and the stage returns [`Error::Interrupted`].

use crate::error::{Error, Result};

/// An event that is reported to the user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// Work of a known size begins. It replaces the current work, if any.
    Begin {
        /// The name of the work.
        what: &'a str,
        /// The number of units in all.
        total: u64,
        /// The number of units that were done before, in an earlier session.
        done: u64,
        /// The name of the units, in the plural.
        unit: &'static str,
    },
    /// This number of units was done since the last event.
    Advance(u64),
    /// A detail of the current work, such as a loss.
    Detail(&'a str),
    /// The current work has ended.
    End,
    /// A sentence for the user.
    Note(&'a str),
    /// A sentence that the user should not miss.
    Warn(&'a str),
}

/// The sink of events.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    sink: &'a (dyn Fn(Event) -> bool + Sync),
}

impl<'a> Progress<'a> {
    /// Sends events to `sink`, which returns whether the work should continue.
    pub fn new(sink: &'a (dyn Fn(Event) -> bool + Sync)) -> Progress<'a> {
        Progress { sink }
    }

    /// Ignores all events, and never stops the work.
    pub fn silent() -> Progress<'static> {
        Progress { sink: &|_| true }
    }

    /// Sends [`Event::Begin`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the work should stop.
    pub fn begin(&self, what: &str, total: u64, unit: &'static str) -> Result<()> {
        self.resume(what, total, 0, unit)
    }

    /// Sends [`Event::Begin`] for work of which `done` units were done before.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the work should stop.
    pub fn resume(&self, what: &str, total: u64, done: u64, unit: &'static str) -> Result<()> {
        self.send(Event::Begin { what, total, done, unit })
    }

    /// Sends [`Event::Advance`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the work should stop.
    pub fn advance(&self, units: u64) -> Result<()> {
        self.send(Event::Advance(units))
    }

    /// Sends [`Event::Detail`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the work should stop.
    pub fn detail(&self, text: &str) -> Result<()> {
        self.send(Event::Detail(text))
    }

    /// Sends [`Event::End`].
    pub fn end(&self) {
        (self.sink)(Event::End);
    }

    /// Sends [`Event::Note`].
    pub fn note(&self, sentence: &str) {
        (self.sink)(Event::Note(sentence));
    }

    /// Sends [`Event::Warn`].
    pub fn warn(&self, sentence: &str) {
        (self.sink)(Event::Warn(sentence));
    }

    fn send(&self, event: Event) -> Result<()> {
        if (self.sink)(event) { Ok(()) } else { Err(Error::Interrupted) }
    }
}
