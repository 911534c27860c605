//! Long work on a thread of its own, while Python's thread listens: it hands notes, warnings and progress to Python, and stops the
//! work at Ctrl-C or where Python raises.
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use cli::host::{Host, Interrupter, Listener, Progress};
use pyo3::prelude::*;
use rayon::ThreadPoolBuilder;

use crate::refused;

/// How often Python's thread looks whether it is to stop.
const POLL: Duration = Duration::from_millis(50);
/// How long stopped work may take to its next step. After that it is left to itself, and ends there.
const GRACE: Duration = Duration::from_secs(2);

/// The stack of the work: as large as that of a program's first thread on Linux.
const STACK: usize = 8 << 20;

/// What the work says.
enum Event {
    Note(String),
    Assumption(String),
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

    fn assume(&self, text: &str) {
        self.say(Event::Assumption(text.to_owned()));
    }

    fn warn(&self, text: &str) {
        self.say(Event::Warning(text.to_owned()));
    }
}

/// Work that is going on. A process that is forked meanwhile has none of its threads, and would wait for ever for a lock that one of them
/// holds.
struct Going;

impl Going {
    /// # Errors
    /// The process was forked while work was going on.
    fn begin() -> PyResult<Self> {
        let here = process::id();
        let there = PROCESS.swap(here, Ordering::Relaxed);
        if there != here && GOING.load(Ordering::Relaxed) > 0 {
            PROCESS.store(there, Ordering::Relaxed);
            return Err(refused(
                "another thread quantized or analyzed a network when this process was forked: start processes by the method `spawn`",
            ));
        }
        GOING.fetch_add(1, Ordering::Relaxed);
        Ok(Self)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        GOING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much work is going on, and in which process.
static GOING: AtomicUsize = AtomicUsize::new(0);
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// Runs work without the GIL, on threads of its own: rayon's common ones, which last, would be lost in a process that is forked. `ear` is
/// Python's listener, with the methods `note`, `assume`, `warn`, `progress` and `error`, which are called on this thread.
///
/// # Errors
/// What `ear.error` makes of the work's error; what `ear` raises, or Python's handler of a signal, which both stop the work.
pub fn run<T: Send + 'static>(
    py: Python<'_>,
    ear: &Bound<'_, PyAny>,
    work: impl FnOnce(Host) -> Result<T, cli::Error> + Send + 'static,
) -> PyResult<T> {
    let (sender, mut events) = mpsc::channel();
    let interrupter = Interrupter::new();
    let host = Host::new(Arc::new(Speaker(sender)), interrupter.clone());
    let going = Going::begin()?;
    let threads = ThreadPoolBuilder::new().thread_name(|i| format!("dsconv-{i}")).stack_size(STACK);
    let threads = threads.build().map_err(refused)?;
    let work = move || {
        let _going = going;
        threads.install(|| work(host))
    };
    let thread = thread::Builder::new().name("dsconv".to_owned()).spawn(work)?;
    if let Err(raised) = listen(py, ear, &mut events, &thread) {
        interrupter.stop(None);
        py.detach(|| wait(&thread, GRACE));
        return Err(raised);
    }
    match py.detach(|| thread.join()) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(told(ear, &error)),
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
            Ok(Event::Assumption(text)) => drop(ear.call_method1("assume", (text,))?),
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

/// Has `ear` make an exception of a command's error.
fn told(ear: &Bound<'_, PyAny>, error: &cli::Error) -> PyErr {
    match ear.call_method1("error", (error.to_string(), error.advice(), error.is_missing())) {
        Ok(exception) => PyErr::from_value(exception),
        Err(raised) => raised,
    }
}
