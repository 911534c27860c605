//! Code that is compiled for some of a CPU's instructions.

/// Makes two functions for a set of features: `$has`, whether the CPU has all of them, and `$run`, which runs a
/// [`Task`](super::Task) that was compiled for them.
macro_rules! instructions {
    ($detected:ident, $has:ident, $run:ident: $($feature:tt),+) => {
        fn $has() -> bool {
            $(std::arch::$detected!($feature))&&+
        }

        #[target_feature($(enable = $feature),+)]
        #[inline(never)]
        fn $run<T: $crate::kernels::Task>(task: T) -> T::Output {
            task.run()
        }
    };
}

pub(super) use instructions;
