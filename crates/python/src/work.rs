//! Long work on a thread of its own, while Python's thread listens: it hands notes, warnings and progress to Python, and stops the
//! work at Ctrl-C or where Python raises.
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cli::host::{Host, Interrupter, Listener, Progress};
use pyo3::prelude::*;

use crate::Error;

/// How often Python's thread looks whether it is to stop.
const POLL: Duration = Duration::from_millis(50);
/// How long stopped work may take to its next step. After that it is left to itself, and ends there.
const GRACE: Duration = Duration::from_secs(2);

/// The stack of the work: as large as that of a program's first thread on Linux.
const STACK: usize = 8 << 20;

/// What the work says.
enum Event {
    Note(String),
    Warning(String),
    Start { phase: String, total: usize },
    Advance { done: usize, note: String },
}

/// The end of a channel at which the work speaks. Nobody hears what is said after Python has gone on.
struct Speaker(Sender<Event>);

impl Speaker {
    fn say(&self, event: Event) {
        let _ = self.0.send(event);
    }
}

impl Progress for Speaker {
    fn start(&self, phase: &str, total: usize) {
        self.say(Event::Start { phase: phase.to_owned(), total });
    }

    fn advance(&self, done: usize, note: &str) {
        self.say(Event::Advance { done, note: note.to_owned() });
    }
}

impl Listener for Speaker {
    fn note(&self, text: &str) {
        self.say(Event::Note(text.to_owned()));
    }

    fn warn(&self, text: &str) {
        self.say(Event::Warning(text.to_owned()));
    }
}

/// Runs work without the GIL. `ear` is Python's listener, with the methods `note`, `warn` and `progress`, which are called on this
/// thread.
///
/// # Errors
/// The work's error as `dsconv.Error`; what `ear` raises, or Python's handler of a signal, which both stop the work.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    ear: &Bound<'_, PyAny>,
    work: impl FnOnce(Host) -> Result<T, cli::Error> + Send + 'static,
) -> PyResult<T> {
    let (sender, mut events) = mpsc::channel();
    let interrupter = Interrupter::new();
    let host = Host::new(Arc::new(Speaker(sender)), interrupter.clone());
    let thread = thread::Builder::new().name("dsconv".to_owned()).stack_size(STACK).spawn(move || work(host))?;
    if let Err(raised) = listen(py, ear, &mut events, &thread) {
        interrupter.stop(None);
        py.detach(|| wait(&thread, GRACE));
        return Err(raised);
    }
    match py.detach(|| thread.join()) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(told(py, &error)),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Hands events to Python until the work is done.
fn listen<T>(
    py: Python<'_>,
    ear: &Bound<'_, PyAny>,
    events: &mut Receiver<Event>,
    thread: &JoinHandle<T>,
) -> PyResult<()> {
    let mut now = (String::new(), 0);
    loop {
        let is_finished = thread.is_finished();
        let waiting = &mut *events;
        let event = py.detach(move || waiting.recv_timeout(POLL));
        py.check_signals()?;
        match event {
            Ok(Event::Note(text)) => drop(ear.call_method1("note", (text,))?),
            Ok(Event::Warning(text)) => drop(ear.call_method1("warn", (text,))?),
            Ok(Event::Start { phase, total }) => {
                ear.call_method1("progress", (&phase, 0, total, ""))?;
                now = (phase, total);
            }
            Ok(Event::Advance { done, note }) => drop(ear.call_method1("progress", (&now.0, done, now.1, note))?),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            // Something still holds the other end.
            Err(RecvTimeoutError::Timeout) if is_finished => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Waits for a thread at most so long.
fn wait<T>(thread: &JoinHandle<T>, most: Duration) {
    let begun = Instant::now();
    while !thread.is_finished() && begun.elapsed() < most {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a `dsconv.Error` of a command's error, with its hint as an attribute too.
fn told(py: Python<'_>, error: &cli::Error) -> PyErr {
    let raised = Error::new_err(error.to_string());
    // An exception takes attributes; where it does not, the hint stands in the text.
    let _ = raised.value(py).setattr("hint", error.advice());
    raised
}
