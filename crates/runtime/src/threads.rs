//! The threads that a session runs on, in the process that uses it.
use std::sync::Arc;
use std::{fmt, mem, process};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::Error;
use crate::kernels::Environment;

/// The most threads that a [`Session`](crate::Session) can have.
pub const MAX_THREADS: usize = 1024;

/// A number of threads. A process that was forked has none of its parent's, and makes its own when it first needs them.
pub(crate) struct Threads {
    count: usize,
    /// The pool and the process that its threads are in; one thread is the caller's and needs none.
    pool: Option<(u32, Arc<ThreadPool>)>,
}

impl Threads {
    /// Starts threads; 0 counts as one.
    ///
    /// # Errors
    /// [`Error::Threads`] for more than [`MAX_THREADS`], or where the system does not give as many.
    pub fn new(count: usize) -> Result<Self, Error> {
        let mut threads = Self { count: count.max(1), pool: None };
        threads.start()?;
        Ok(threads)
    }

    /// Returns their number.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns the pool in this process; `None` for one thread.
    ///
    /// # Errors
    /// [`Error::Threads`] in a forked process to which the system does not give as many.
    pub fn pool(&mut self) -> Result<Option<Arc<ThreadPool>>, Error> {
        if self.is_of_another_process() {
            self.leave();
            self.start()?;
        }
        Ok(self.pool.as_ref().map(|(_, pool)| pool.clone()))
    }

    fn start(&mut self) -> Result<(), Error> {
        let threads = self.count;
        let refuse = |why: String| Error::Threads { threads, why };
        if threads > MAX_THREADS {
            return Err(refuse(format!("a session has at most {MAX_THREADS}")));
        }
        if threads > 1 {
            let builder = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("dsconv-{i}"));
            let builder = builder.start_handler(|_| Environment::keep());
            let pool = builder.build().map_err(|error| refuse(error.to_string()))?;
            self.pool = Some((process::id(), Arc::new(pool)));
        }
        Ok(())
    }

    fn is_of_another_process(&self) -> bool {
        self.pool.as_ref().is_some_and(|&(process, _)| process != process::id())
    }

    /// Gives up a pool whose threads are not there. It is not dropped, since it would wait for a lock that one of them may hold.
    fn leave(&mut self) {
        mem::forget(self.pool.take());
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.is_of_another_process() {
            self.leave();
        }
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.count.fmt(f)
    }
}
