//! Plain loops, compiled for the vector instructions that the CPU has.

/// Vector instructions that the compiler may use. A value can be made only where the CPU has them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features(Level);

#[derive(Debug, Clone, Copy)]
enum Level {
    Target,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Code that [`Features::run`] compiles once for each set of instructions: [`Task::run`] and what it calls are
/// `#[inline(always)]`.
pub(crate) trait Task {
    /// What it gives.
    type Output;
    /// Does the work.
    fn run(self) -> Self::Output;
}

impl Features {
    /// The instructions that the whole program is compiled for.
    pub const TARGET: Self = Self(Level::Target);

    /// AVX2 and FMA, if the CPU has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx2() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(Level::Avx2))
    }

    /// AVX-512 F, BW, DQ and VL with FMA, if the CPU has them.
    #[cfg(target_arch = "x86_64")]
    pub fn avx512() -> Option<Self> {
        let here = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("fma");
        here.then_some(Self(Level::Avx512))
    }

    /// Runs a task in code that was compiled for these instructions.
    pub fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Level::Target => task.run(),
            // SAFETY: the CPU has the instructions, or there would be no `self`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2(task) },
            // SAFETY: the CPU has the instructions, or there would be no `self`.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512(task) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<T: Task>(task: T) -> T::Output {
    task.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn avx512<T: Task>(task: T) -> T::Output {
    task.run()
}
