//! The progress of long work: bars on a terminal, lines off it.
use std::io::{self, IsTerminal};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::printer::{Bar, Printer};
use crate::table::duration;
use burn::tensor::Device;
use distill::{Context, Interrupter, Progress};

/// The time after which a phase says again how far it is, off a terminal.
const EVERY: Duration = Duration::from_secs(30);

/// How long work that was stopped may take to end by itself. After that the process ends without it.
const GRACE: Duration = Duration::from_millis(700);

/// The interrupter of all that this process does, once it does something that can be stopped.
static WORK: OnceLock<Interrupter> = OnceLock::new();
/// Whether a dashboard has the terminal, which it alone gives back.
static DASHBOARD: AtomicBool = AtomicBool::new(false);
/// How stopped work is gone on with.
static GOES_ON: Mutex<Option<String>> = Mutex::new(None);
/// Held by the thread that ends the process.
static END: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a [`Context`] on `device` that shows bars and is stopped as [`hear`] says. Where a host listens, progress goes to it, and it
/// alone stops the work.
pub fn context(device: Device, printer: &Printer) -> Context {
    if let Some(host) = printer.host() {
        return host.context(device);
    }
    let bars = Bars { printer: printer.clone(), phase: Mutex::default() };
    let interrupter = WORK.get_or_init(Interrupter::new).clone();
    Context { device, progress: Arc::new(bars), interrupter, dashboard: false }
}

/// Ends this process at Ctrl-C, or where it is told to terminate. Work that can be stopped has a moment to end by itself; nothing is
/// lost where it does not, since files are written whole or not at all, and runs go on from their last checkpoint.
///
/// # Errors
/// The system refuses the handler.
pub fn hear(printer: &Printer) -> Result<()> {
    let printer = printer.clone();
    let stop = move || match WORK.get() {
        Some(work) if !work.should_stop() => {
            work.stop(Some("Ctrl-C"));
            if !DASHBOARD.load(Ordering::Relaxed) {
                let printer = printer.clone();
                thread::spawn(move || {
                    thread::sleep(GRACE);
                    end(&printer);
                });
            }
        }
        _ => end(&printer),
    };
    ctrlc::set_handler(stop).map_err(|error| Error::failed(format!("cannot listen for Ctrl-C: {error}")))
}

/// Ends the process in the middle of its work.
fn end(printer: &Printer) {
    let _ended = lock(&END);
    files::abandon_writes();
    printer.error(&stopped());
    process::exit(130);
}

/// Keeps the process from being ended by another thread, which is about to end by itself.
pub fn keep_end() {
    std::mem::forget(lock(&END));
}

/// The error of work that was stopped, with what [`goes_on`] was told.
pub fn stopped() -> Error {
    let error = Error::interrupted("stopped");
    match &*lock(&GOES_ON) {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// Takes down how the work is gone on with, should it be stopped.
pub fn goes_on(hint: String) {
    lock(&GOES_ON).get_or_insert(hint);
}

/// Checks that a dashboard that is wanted can be shown.
///
/// # Errors
/// Stdin and stdout are no terminal.
pub fn check_dashboard(wanted: bool) -> Result<()> {
    DASHBOARD.store(wanted, Ordering::Relaxed);
    if wanted && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let error = Error::usage("`--tui` needs a terminal to draw on and to hear keys from");
        return Err(error.hint("without it, a line says every 30 seconds how far it is"));
    }
    Ok(())
}

struct Bars {
    printer: Printer,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    total: usize,
    bar: Bar,
    start: Instant,
    told: Instant,
}

impl Progress for Bars {
    fn start(&self, phase: &str, total: usize) {
        let bar = self.printer.bar(phase.to_owned(), total as u64, "");
        let now = Instant::now();
        let phase = Phase { name: phase.to_owned(), total, bar, start: now, told: now };
        *self.phase.lock().expect("bars do not panic") = Some(phase);
    }

    fn resume(&self, done: usize) {
        if let Some(phase) = self.phase.lock().expect("bars do not panic").as_mut() {
            phase.bar.begin_at(done as u64);
        }
    }

    fn advance(&self, done: usize, note: &str) {
        let mut phase = self.phase.lock().expect("bars do not panic");
        let Some(phase) = phase.as_mut() else { return };
        phase.bar.set_position(done as u64);
        if !note.is_empty() {
            phase.bar.set_message(note.to_owned());
        }
        if phase.bar.is_hidden() && phase.told.elapsed() >= EVERY {
            phase.told = Instant::now();
            let so_far = duration(phase.start.elapsed());
            let left = phase.bar.left().map_or(String::new(), |left| format!(", {left}"));
            let text = format!("{}: {done} of {}, {so_far}{left}  {note}", phase.name, phase.total);
            self.printer.talk(text.trim_end());
        }
    }

    fn finish(&self) {
        if let Some(phase) = self.phase.lock().expect("bars do not panic").take() {
            phase.bar.finish_and_clear();
            self.printer.detail(format!("{}: {}", phase.name, duration(phase.start.elapsed())));
        }
    }
}
