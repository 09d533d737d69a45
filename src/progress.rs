//! How a stage tells the outside what it is doing, and learns that it should stop.
//!
//! Library code never prints: it sends [`Event`]s to one closure. The closure's answer is the other direction: `false`
//! means that the user wants to stop, and the stage returns [`Error::Interrupted`].

use crate::error::{Error, Result};

/// Something worth telling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event<'a> {
    /// Work of a known size begins; it replaces what was under way before.
    Begin {
        /// The name of the work.
        what: &'a str,
        /// The number of units in all.
        total: u64,
        /// The name of the units, in the plural.
        unit: &'static str,
    },
    /// So many units are done since the last event.
    Advance(u64),
    /// What the work under way shows of itself at the moment (a loss, say).
    Detail(&'a str),
    /// The work under way is over.
    End,
    /// A sentence for the user, in the course of things.
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
    /// Sends events to `sink`, which answers whether to go on.
    pub fn new(sink: &'a (dyn Fn(Event) -> bool + Sync)) -> Progress<'a> {
        Progress { sink }
    }

    /// Nobody listens, nobody stops us.
    pub fn silent() -> Progress<'static> {
        Progress { sink: &|_| true }
    }

    /// See [`Event::Begin`].
    pub fn begin(&self, what: &str, total: u64, unit: &'static str) -> Result<()> {
        self.send(Event::Begin { what, total, unit })
    }

    /// See [`Event::Advance`].
    pub fn advance(&self, units: u64) -> Result<()> {
        self.send(Event::Advance(units))
    }

    /// See [`Event::Detail`].
    pub fn detail(&self, text: &str) -> Result<()> {
        self.send(Event::Detail(text))
    }

    /// See [`Event::End`].
    pub fn end(&self) {
        (self.sink)(Event::End);
    }

    /// See [`Event::Note`].
    pub fn note(&self, sentence: &str) {
        (self.sink)(Event::Note(sentence));
    }

    /// See [`Event::Warn`].
    pub fn warn(&self, sentence: &str) {
        (self.sink)(Event::Warn(sentence));
    }

    fn send(&self, event: Event) -> Result<()> {
        if (self.sink)(event) { Ok(()) } else { Err(Error::Interrupted) }
    }
}
