//! The floating point environment of a thread: a host that was compiled with `-ffast-math`, or loaded a library that was,
//! may have turned denormal numbers off, and then sums have other bits.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::arch::asm;

/// The standard control word: rounding to the nearest, denormals kept, exceptions masked.
#[cfg(target_arch = "x86_64")]
const STANDARD: u64 = 0x1f80;
#[cfg(not(target_arch = "x86_64"))]
const STANDARD: u64 = 0;

/// The bits that control arithmetic; the others note what happened.
#[cfg(target_arch = "x86_64")]
const CONTROL: u64 = 0xffc0;
#[cfg(not(target_arch = "x86_64"))]
const CONTROL: u64 = u64::MAX;

/// The standard environment on this thread, until it is dropped.
pub(crate) struct Environment {
    before: u64,
}

impl Environment {
    /// Sets the standard environment; what was there before comes back when the value is dropped.
    pub fn standard() -> Self {
        let before = read();
        if before & CONTROL != STANDARD {
            write(STANDARD);
        }
        Self { before }
    }

    /// Sets the standard environment on this thread for good.
    pub fn keep() {
        std::mem::forget(Self::standard());
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if self.before & CONTROL != STANDARD {
            write(self.before);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    let mut register = 0u32;
    // SAFETY: four bytes are written to four.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut register, options(nostack, preserves_flags)) };
    register.into()
}

#[cfg(target_arch = "x86_64")]
fn write(value: u64) {
    let register = value as u32;
    // SAFETY: the standard value, or one that was read.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &register, options(nostack, preserves_flags, readonly)) };
}

#[cfg(target_arch = "aarch64")]
fn read() -> u64 {
    let register: u64;
    // SAFETY: this register can be read by any program.
    unsafe { asm!("mrs {}, fpcr", out(reg) register, options(nostack, nomem, preserves_flags)) };
    register
}

#[cfg(target_arch = "aarch64")]
fn write(value: u64) {
    // SAFETY: the standard value, or one that was read.
    unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn read() -> u64 {
    STANDARD
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn write(_: u64) {}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn denormals_are_there_where_the_host_turned_them_off() {
        let half = || black_box(f32::MIN_POSITIVE) * black_box(0.5);
        let fast = Environment::standard();
        write(STANDARD | 0x8040);
        assert_eq!(half(), 0.0);
        let here = Environment::standard();
        assert!(half() > 0.0);
        drop(here);
        assert_eq!(half(), 0.0);
        write(fast.before);
    }
}
