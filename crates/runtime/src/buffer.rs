//! Memory that begins at a cache line.
use std::fmt;
use std::ops::{Deref, DerefMut};

/// The number of bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// A fixed number of elements whose first one begins a cache line.
#[derive(Default)]
pub(crate) struct Buffer<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Buffer<T> {
    /// Makes `len` elements of value zero.
    pub fn new(len: usize) -> Self {
        let data = vec![T::default(); len + LINE / size_of::<T>()];
        let start = data.as_ptr().align_offset(LINE).min(LINE / size_of::<T>());
        Self { data, start, len }
    }

    /// Makes `len` elements of value zero, or `None` where the system has no such memory.
    pub fn try_new(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?.checked_add(2 * LINE)?;
        // Asked for and given back: memory that is zero from the start cannot be asked for in one.
        Vec::<u8>::new().try_reserve_exact(bytes).ok()?;
        Some(Self::new(len))
    }

    /// Returns the number of bytes that [`Buffer::new`] takes.
    pub fn bytes_of(len: usize) -> u64 {
        (len as u64).saturating_mul(size_of::<T>() as u64).saturating_add(LINE as u64)
    }

    /// Returns the number of bytes that the buffer takes.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<T>()
    }
}

/// Shows the number of elements, since there are millions of them.
impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}
