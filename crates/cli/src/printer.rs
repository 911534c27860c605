//! The printer, which alone owns stdout and stderr: data goes to stdout, talk and progress to stderr.
use std::fmt::Display;
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::{Serialize, Serializer};

use crate::args::QUANTIZE_IMAGES;
use crate::error::Error;
use crate::host::Host;
use crate::names;
use crate::table::{Table, duration, harmless};

/// How the user wants to be talked to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// The printer writes the result as one JSON document.
    pub json: bool,
    /// The printer says nothing but results, warnings and errors.
    pub quiet: bool,
    /// The printer says more than usual.
    pub verbose: bool,
    /// The choice of colour: always, never, or as the terminal says.
    pub colour: ColorChoice,
    /// Whether a config says what options of a model say in other commands.
    pub by_config: bool,
    /// Where images go, if the command takes any.
    pub images: Option<&'static str>,
}

/// The printer of results, talk, errors and progress.
#[derive(Debug, Clone)]
pub struct Printer {
    manner: Manner,
    bars: MultiProgress,
    /// The program that hears talk, warnings and progress in the terminal's place.
    host: Option<Host>,
    /// Whether stdout has its one JSON document.
    has_document: Arc<AtomicBool>,
}

/// An error as a JSON document.
#[derive(Debug, Serialize)]
struct ErrorDocument<'a> {
    error: &'a str,
    /// What the user can do; `null` where the message says it.
    hint: Option<&'a str>,
    /// The exit status.
    status: u8,
}

/// A progress bar that knows where it began, so that work done by an earlier process does not count in its speed.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: ProgressBar,
    first: Arc<AtomicU64>,
}

impl Bar {
    /// Says what is done already when the work begins.
    pub fn begin_at(&self, done: u64) {
        self.first.store(done, Ordering::Relaxed);
        self.bar.set_position(done);
    }

    /// Returns the time left, in words; `None` where that would be a guess.
    pub fn left(&self) -> Option<String> {
        let done = self.bar.position().saturating_sub(self.first.load(Ordering::Relaxed));
        let rest = self.bar.length().unwrap_or_default().saturating_sub(self.bar.position());
        left(done, rest, self.bar.elapsed())
    }
}

impl Deref for Bar {
    type Target = ProgressBar;
    fn deref(&self) -> &ProgressBar {
        &self.bar
    }
}

/// Estimates the time left where `done` took `elapsed` and `rest` goes on alike; `None` as long as that would be a guess.
fn left(done: u64, rest: u64, elapsed: Duration) -> Option<String> {
    let told = done > 0 && rest > 0 && elapsed >= Duration::from_secs(2);
    let time = || Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest as f64 / done as f64).ok();
    told.then(time).flatten().map(|time| format!("{} left", duration(time)))
}

/// Writes a path as text; JSON has no place for the rare one that is none.
///
/// # Errors
/// The serializer fails.
pub fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const ERROR: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();
const HINT: Style = AnsiColor::Cyan.on_default().bold();

impl Printer {
    /// Makes a printer. Where colour is left to the terminal, `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM` decide too.
    pub fn new(manner: &Manner) -> Self {
        // indicatif draws nothing off a terminal.
        let target = if manner.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self {
            manner: *manner,
            bars: MultiProgress::with_draw_target(target),
            host: None,
            has_document: Arc::default(),
        }
    }

    /// Makes a printer that hands on what it is told to say.
    pub fn hosted(host: Host) -> Self {
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        // What a host runs takes images as `quantize` does.
        let manner = Manner { images: Some(QUANTIZE_IMAGES), ..Manner::default() };
        Self { manner, bars, host: Some(host), has_document: Arc::default() }
    }

    /// Returns the program that listens in the terminal's place.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    /// The same printer without talk, for work whose words were said before or will be said again.
    pub fn quiet(&self) -> Self {
        Self { manner: Manner { quiet: true, ..self.manner }, ..self.clone() }
    }

    /// Tells whether the result is one JSON document.
    pub fn is_json(&self) -> bool {
        self.manner.json
    }

    /// Says where images go, if the command takes any.
    pub fn images(&self) -> Option<&'static str> {
        self.manner.images
    }

    /// Puts the keys of a config in the place of options that its command has not.
    fn words(&self, text: &str) -> String {
        match self.manner.by_config {
            true => names::in_keys(text),
            false => text.to_owned(),
        }
    }

    /// Tells whether details are wanted.
    pub fn is_verbose(&self) -> bool {
        self.manner.verbose
    }

    /// Prints the result: `document` where JSON is wanted, else what `text` prints.
    pub fn result<T: Serialize>(&self, document: &T, text: impl FnOnce(&Self)) {
        if self.manner.json {
            self.document(document);
        } else {
            text(self);
        }
    }

    /// Prints the one JSON document; a second one, an error's after the result, is not printed.
    fn document<T: Serialize>(&self, document: &T) {
        if self.has_document.swap(true, Ordering::Relaxed) {
            return;
        }
        match serde_json::to_string_pretty(document) {
            // As it is: names in it may hold what a stream without colour strips.
            Ok(json) => self.write_out(io::stdout().lock(), &json),
            Err(error) => self.give_up(&format!("cannot write the result as JSON: {error}")),
        }
    }

    /// Prints a line of the result.
    pub fn line(&self, text: impl Display) {
        self.write_out(self.stdout(), &harmless(&text.to_string()));
    }

    /// Prints a table of the result, on a terminal in its width.
    pub fn table(&self, table: &Table) {
        let terminal = terminal_size::terminal_size_of(io::stdout());
        let mut blocks = table.blocks(terminal.map_or(usize::MAX, |(width, _)| width.0.into()));
        for (line, style) in blocks.iter_mut().flat_map(|lines| lines.iter_mut().zip([BOLD, DIM])) {
            *line = format!("{style}{line}{style:#}");
        }
        let blocks: Vec<String> = blocks.iter().map(|lines| lines.join("\n")).collect();
        self.write_out(self.stdout(), &blocks.join("\n\n"));
    }

    /// Says what is being done, unless the user wants quiet.
    pub fn talk(&self, text: impl Display) {
        if !self.manner.quiet {
            let text = harmless(&self.words(&text.to_string()));
            match &self.host {
                Some(host) => host.listener().note(&text),
                None => self.write_err(&text),
            }
        }
    }

    /// Says what is assumed because neither a file nor the user says it, unless the user wants quiet.
    pub fn assume(&self, text: impl Display) {
        match &self.host {
            Some(host) if !self.manner.quiet => host.listener().assume(&harmless(&text.to_string())),
            _ => self.talk(text),
        }
    }

    /// Says a detail, where the user wants those.
    pub fn detail(&self, text: impl Display) {
        if self.manner.verbose {
            self.write_err(&format!("{DIM}{}{DIM:#}", harmless(&text.to_string())));
        }
    }

    /// Warns of something that the user should know though the work goes on.
    pub fn warn(&self, text: impl Display) {
        let text = harmless(&self.words(&text.to_string()));
        match &self.host {
            Some(host) => host.listener().warn(&text),
            None => self.write_err(&format!("{WARNING}warning{WARNING:#}: {text}")),
        }
    }

    /// Prints the error that ends a command, where JSON is wanted also as a document on stdout.
    pub fn error(&self, error: &Error) {
        let mut text = format!("{ERROR}error{ERROR:#}: {}", harmless(error.message()));
        if let Some(drawing) = error.drawing() {
            text += &format!("\n{drawing}");
        }
        let hint = error.advice().map(|hint| self.words(hint));
        if let Some(hint) = &hint {
            text += &format!("\n\n{HINT}hint{HINT:#}: {}", harmless(hint));
        }
        self.write_err(&text);
        if self.manner.json {
            self.document(&ErrorDocument { error: error.message(), hint: hint.as_deref(), status: error.code() });
        }
    }

    /// Shows a progress bar on stderr, unless that is no terminal. `unit` is what is counted.
    pub fn bar(&self, label: impl Into<String>, length: u64, unit: &str) -> Bar {
        let counts = if unit == "bytes" {
            "{bytes}/{total_bytes} {bytes_per_sec}".to_owned()
        } else {
            format!("{{pos}}/{{len}} {unit}")
        };
        let template = format!("{{prefix:<12}} [{{bar:24}}] {counts} {{left}} {{wide_msg}}");
        let first = Arc::new(AtomicU64::new(0));
        let begun = first.clone();
        let left = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let done = state.pos().saturating_sub(begun.load(Ordering::Relaxed));
            let rest = state.len().unwrap_or_default().saturating_sub(state.pos());
            let _ = left(done, rest, state.elapsed()).map_or(Ok(()), |text| out.write_str(&text));
        };
        let style = ProgressStyle::with_template(&template).expect("a valid template").progress_chars("=> ");
        let style = style.with_key("left", left);
        let bar = self.bars.add(ProgressBar::new(length).with_style(style).with_prefix(label.into()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar { bar, first }
    }

    fn stdout(&self) -> AutoStream<io::StdoutLock<'static>> {
        AutoStream::new(io::stdout().lock(), self.manner.colour)
    }

    fn write_out(&self, mut stdout: impl Write, text: &str) {
        let done = self.bars.suspend(|| writeln!(stdout, "{text}"));
        if let Err(error) = done {
            // `dsconv models | head` has had enough: that is no failure.
            if error.kind() == io::ErrorKind::BrokenPipe {
                std::process::exit(0);
            }
            self.give_up(&format!("cannot write the result: {error}"));
        }
    }

    fn give_up(&self, why: &str) {
        self.error(&Error::failed(why));
        std::process::exit(1);
    }

    fn write_err(&self, text: &str) {
        // Nobody is left to tell where stderr is gone.
        let _ = self.bars.suspend(|| writeln!(AutoStream::new(io::stderr().lock(), self.manner.colour), "{text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_what_was_done_beside_what_is_not() {
        let of = |done, rest, seconds| left(done, rest, Duration::from_secs(seconds));
        assert_eq!(of(10, 30, 20).unwrap(), "1 min 00 s left");
        assert_eq!(of(0, 30, 20), None, "nothing is known");
        assert_eq!(of(1, 1_000_000, 1), None, "too early");
        assert_eq!(of(30, 0, 20), None, "it is done");
        let printer = Printer::new(&Manner { quiet: true, ..Manner::default() });
        // What an earlier run did took none of this one's time.
        let bar = printer.bar("adapt", 100, "");
        bar.begin_at(90);
        assert_eq!((bar.position(), bar.left()), (90, None));
    }
}
