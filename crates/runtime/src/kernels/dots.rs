//! Instruction sets that multiply four unsigned bytes by four signed ones and add them to a 32-bit sum, or can do as if.
use super::lanes::Sums;
use super::tile::{Form, Isa, Run};
use super::tiles::{Product, Tiled, Words, next_panel, next_position};
use crate::layout::LANES;
use crate::winograd::{LINE, POSITIONS};

/// Dot products of four codes, the same ones for all lanes, with four weights a lane.
pub(super) trait Dots: Isa {
    /// Four codes in every lane.
    type Codes: Copy;
    /// Whether there are registers for two chains of sums of each output.
    const CHAINS: bool;
    /// Loads four codes, the same ones in every lane.
    unsafe fn splat(at: *const u8) -> Self::Codes;
    /// Adds products to sums. Unless `WIDE`, a pair of them fits 16 bits, or need not.
    unsafe fn dot<const WIDE: bool>(sums: Self::Sums, codes: Self::Codes, weights: Self::Sums) -> Self::Sums;
    /// Loads a line of nibbles: the weights of two steps.
    unsafe fn nibbles(line: *const u8) -> [Self::Sums; 2];
    /// Asks for a line that is read later, or `SOON`.
    #[inline(always)]
    unsafe fn prefetch<const SOON: bool>(_: *const u8) {}
}

/// Adds the dot products of a segment whose weights are bytes.
#[inline(always)]
pub(super) unsafe fn bytes<D: Dots, F: Form, const WIDE: bool, const R: usize, const P: usize>(
    sums: &mut [[D::Sums; P]; R],
    run: &Run<R>,
) {
    let (mut at, mut weights, mut ahead) = (run.at, run.weights, run.ahead);
    // SAFETY: of the caller.
    unsafe {
        for _ in 0..if F::ONE { 1 } else { run.steps } {
            step::<D, WIDE, R, P>(sums, &run.codes, at, weights, run.next);
            at += 4;
            weights = weights.add(64);
            if !F::ONE {
                D::prefetch::<false>(ahead);
                ahead = ahead.wrapping_add(run.ahead_step);
            }
        }
    }
}

/// Adds the products of a step: four codes of each row, at byte `at`, with weights that are `next` bytes from a panel's to the next.
#[inline(always)]
unsafe fn step<D: Dots, const WIDE: bool, const R: usize, const P: usize>(
    sums: &mut [[D::Sums; P]; R],
    codes: &[*const u8; R],
    at: usize,
    weights: *const u8,
    next: usize,
) {
    // SAFETY: of the caller.
    unsafe {
        let mut q = [D::Sums::zero(); P];
        for p in 0..P {
            q[p] = D::Sums::load(weights.add(p * next).cast());
        }
        for r in 0..R {
            let a = D::splat(codes[r].add(at));
            for p in 0..P {
                sums[r][p] = D::dot::<WIDE>(sums[r][p], a, q[p]);
            }
        }
    }
}

/// Adds the dot products of a segment whose weights are nibbles, which are unpacked on their way from memory.
#[inline(always)]
pub(super) unsafe fn nibbles<D: Dots, const R: usize, const P: usize>(sums: &mut [[D::Sums; P]; R], run: &Run<R>) {
    let (mut at, mut weights) = (run.at, run.weights);
    // SAFETY: of the caller.
    unsafe {
        let mut odd = [[D::Sums::zero(); P]; R];
        for _ in 0..run.steps.div_ceil(2) {
            let mut q = [[D::Sums::zero(); P]; 2];
            for p in 0..P {
                let line = weights.add(p * run.next);
                D::prefetch::<true>(line.wrapping_add(2048));
                [q[0][p], q[1][p]] = D::nibbles(line);
            }
            for r in 0..R {
                let code = run.codes[r].add(at);
                let (first, second) = (D::splat(code), D::splat(code.add(4)));
                for p in 0..P {
                    // Pairs of products of 4-bit weights always fit 16 bits.
                    sums[r][p] = D::dot::<false>(sums[r][p], first, q[0][p]);
                    let chain = if D::CHAINS { &mut odd[r][p] } else { &mut sums[r][p] };
                    *chain = D::dot::<false>(*chain, second, q[1][p]);
                }
            }
            at += 8;
            weights = weights.add(64);
        }
        if D::CHAINS {
            for r in 0..R {
                for p in 0..P {
                    sums[r][p] = sums[r][p].plus(odd[r][p]);
                }
            }
        }
    }
}

/// Stores the sums of `R` tiles and `P` panels of Winograd's algorithm at all positions.
#[inline(always)]
pub(super) unsafe fn tiles<D: Tiled, const R: usize, const P: usize>(
    product: &Product<'_>,
    mut v: *const u8,
    mut to: *mut i32,
) {
    let (mut weights, panel) = (product.first, product.next);
    let ((tile, position), steps) = (product.apart(), product.steps());
    // SAFETY: of the caller.
    unsafe {
        for _ in 0..POSITIONS {
            let mut sums = [[D::Sums::zero(); P]; R];
            let mut codes = [v; R];
            for r in 0..R {
                codes[r] = v.add(r * tile);
            }
            for i in 0..steps {
                step::<D, false, R, P>(&mut sums, &codes, 4 * i, weights.cast(), panel);
                weights = weights.add(LINE);
            }
            for r in 0..R {
                for p in 0..P {
                    Words::store(sums[r][p], to.add(p * next_panel(D::TILING) + r * LANES));
                }
            }
            (v, to) = (v.add(position), to.add(next_position(D::TILING)));
        }
    }
}
