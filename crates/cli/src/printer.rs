//! The one owner of stdout and stderr: data goes to stdout, talk and progress to stderr.
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use serde::{Serialize, Serializer};

use crate::args::{ColorChoice, Global};
use crate::error::Error;
use crate::table::{Table, duration};

/// How the user wants to be talked to.
#[derive(Debug, Clone)]
pub struct Printer {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// Colour on stdout.
    out: bool,
    /// Colour on stderr.
    err: bool,
    bars: MultiProgress,
}

/// A progress bar that knows where it began.
#[derive(Debug, Clone)]
pub struct Bar {
    bar: ProgressBar,
    first: Arc<AtomicU64>,
}

impl Bar {
    /// What is done already when it begins, and took none of its time.
    pub fn begin_at(&self, done: u64) {
        self.first.store(done, Ordering::Relaxed);
        self.bar.set_position(done);
    }

    /// The time left, in words.
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

/// The time left where `done` took so long and `rest` goes on alike; nothing as long as that would be a guess.
fn left(done: u64, rest: u64, elapsed: Duration) -> Option<String> {
    let told = done > 0 && rest > 0 && elapsed >= Duration::from_secs(2);
    let time = || Duration::try_from_secs_f64(elapsed.as_secs_f64() * rest as f64 / done as f64).ok();
    told.then(time).flatten().map(|time| format!("{} left", duration(time)))
}

/// Writes a path as text; JSON has no place for the rare one that is none.
///
/// # Errors
/// The serializer's.
pub fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// SGR parameters of what is emphasised.
#[derive(Debug, Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Red,
    Yellow,
    Cyan,
}

impl Style {
    fn paint(self, on: bool, text: impl Display) -> String {
        let code = match self {
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "1;31",
            Self::Yellow => "1;33",
            Self::Cyan => "1;36",
        };
        if on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

impl Default for Printer {
    /// As the terminal says.
    fn default() -> Self {
        Self::new(&Global::default())
    }
}

/// Without what a terminal would obey: names in a file may hold anything.
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && !matches!(c, '\n' | '\t') { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

impl Printer {
    /// As the options and the terminal say. `NO_COLOR` and `TERM=dumb` turn colour off, `--color` overrules both.
    pub fn new(global: &Global) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = |terminal: bool| match global.color {
            ColorChoice::Auto => terminal && !plain,
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        // indicatif draws nothing off a terminal.
        let target = if global.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose,
            out: colour(io::stdout().is_terminal()),
            err: colour(io::stderr().is_terminal()),
            bars: MultiProgress::with_draw_target(target),
        }
    }

    /// Whether details are wanted.
    pub fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether stderr takes colour.
    pub fn colours_errors(&self) -> bool {
        self.err
    }

    /// The result: `document` with `--json`, else what `text` prints.
    pub fn result<T: Serialize>(&self, document: &T, text: impl FnOnce(&Self)) {
        if self.json {
            match serde_json::to_string_pretty(document) {
                Ok(json) => self.write_out(&json),
                Err(error) => self.give_up(&format!("cannot write the result as JSON: {error}")),
            }
        } else {
            text(self);
        }
    }

    /// A line of the result.
    pub fn line(&self, text: impl Display) {
        self.write_out(&harmless(&text.to_string()));
    }

    /// A table of the result.
    pub fn table(&self, table: &Table) {
        let mut lines = table.lines();
        for (i, line) in lines.iter_mut().enumerate().take(2) {
            let style = if i == 0 { Style::Bold } else { Style::Dim };
            *line = style.paint(self.out, &line);
        }
        self.write_out(&lines.join("\n"));
    }

    /// Talk: what is being done. Hidden by `--quiet`.
    pub fn talk(&self, text: impl Display) {
        if !self.quiet {
            self.write_err(&harmless(&text.to_string()));
        }
    }

    /// Details, with `--verbose` only.
    pub fn detail(&self, text: impl Display) {
        if self.verbose {
            self.write_err(&Style::Dim.paint(self.err, harmless(&text.to_string())));
        }
    }

    /// Something the user should know though the work goes on.
    pub fn warn(&self, text: impl Display) {
        let text = harmless(&text.to_string());
        self.write_err(&format!("{}: {text}", Style::Yellow.paint(self.err, "warning")));
    }

    /// The last words of a command that failed.
    pub fn error(&self, error: &Error) {
        let mut text = format!("{}: {}", Style::Red.paint(self.err, "error"), harmless(error.message()));
        if let Some(drawing) = error.drawing() {
            text += &format!("\n{drawing}");
        }
        if let Some(hint) = error.advice() {
            text += &format!("\n\n{}: {}", Style::Cyan.paint(self.err, "hint"), harmless(hint));
        }
        self.write_err(&text);
    }

    /// A progress bar on stderr; hidden off a terminal. `unit` is what is counted.
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

    fn write_out(&self, text: &str) {
        let done = self.bars.suspend(|| writeln!(io::stdout().lock(), "{text}"));
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
        let _ = self.bars.suspend(|| writeln!(io::stderr().lock(), "{text}"));
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
        let printer = Printer {
            json: false,
            quiet: true,
            verbose: false,
            out: false,
            err: false,
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
        };
        // What an earlier run did took none of this one's time.
        let bar = printer.bar("adapt", 100, "");
        bar.begin_at(90);
        assert_eq!((bar.position(), bar.left()), (90, None));
    }
}
