//! Sixteen floats, and sixteen integers, in an instruction set's registers.
use crate::layout::LANES;
use crate::math;

/// Some floats in registers. Its functions may be called only where the CPU has the instructions.
pub(super) trait Lanes: Copy {
    /// How many floats there are.
    const WIDTH: usize;
    unsafe fn load(at: *const f32) -> Self;
    unsafe fn store(self, at: *mut f32);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn add(self, y: Self) -> Self;
    unsafe fn mul(self, y: Self) -> Self;
    /// Returns `self * y + z`, rounded once; unless `ANY`, no result is a rounded denormal.
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self;
    /// Computes the lower half of [`limit`](crate::math::limit).
    unsafe fn at_least(self, lo: Self) -> Self;
    /// Computes the upper half of [`limit`](crate::math::limit).
    unsafe fn at_most(self, hi: Self) -> Self;
    /// Returns `self + 0 * y`: a NaN where `y` is not finite, or where one was before.
    unsafe fn note(self, y: Self) -> Self;

    /// Returns the smaller of the bits of `self`, as an integer, and those of `x` less 1, so that 0 comes last.
    #[inline(always)]
    unsafe fn least_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { with_bits(self, x, |least, x| least.min(x.wrapping_sub(1))) }
    }

    /// Returns the larger of the bits of `self`, as an integer, and those of `x`.
    #[inline(always)]
    unsafe fn most_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { with_bits(self, x, u32::max) }
    }

    /// Makes four lanes of each float.
    #[inline(always)]
    unsafe fn quarters(x: [f32; 4]) -> Self {
        let all: [f32; LANES] = std::array::from_fn(|lane| x[lane / 4]);
        // SAFETY: of the caller.
        unsafe { Self::load(all.as_ptr()) }
    }

    /// Returns the floats.
    #[inline(always)]
    unsafe fn array(self) -> [f32; LANES] {
        let mut all = [0.0; LANES];
        // SAFETY: of the caller; there is room for all floats.
        unsafe { self.store(all.as_mut_ptr()) };
        all
    }

    /// Loads the first `lanes` floats; zeros follow.
    #[inline(always)]
    unsafe fn load_lanes(at: *const f32, lanes: usize) -> Self {
        let mut all = [0.0; LANES];
        // SAFETY: of the caller; there is room for all floats.
        unsafe {
            at.copy_to_nonoverlapping(all.as_mut_ptr(), lanes);
            Self::load(all.as_ptr())
        }
    }

    /// Stores the first `lanes` floats only.
    #[inline(always)]
    unsafe fn store_lanes(self, at: *mut f32, lanes: usize) {
        let mut all = [0.0; LANES];
        // SAFETY: of the caller; there is room for all floats.
        unsafe {
            self.store(all.as_mut_ptr());
            at.copy_from_nonoverlapping(all.as_ptr(), lanes);
        }
    }

    /// Returns zeros from lane `lanes` on, and `self` before.
    #[inline(always)]
    unsafe fn first_lanes(self, lanes: usize) -> Self {
        let mut all = [0.0; LANES];
        // SAFETY: of the caller; there is room for all floats.
        unsafe {
            self.store(all.as_mut_ptr());
            all[lanes..].fill(0.0);
            Self::load(all.as_ptr())
        }
    }
}

/// Returns `join` of the bits of each lane.
#[inline(always)]
unsafe fn with_bits<V: Lanes>(x: V, y: V, join: impl Fn(u32, u32) -> u32) -> V {
    // SAFETY: of the caller.
    unsafe {
        let (mut all, y) = (x.array(), y.array());
        for (x, y) in all.iter_mut().zip(y) {
            *x = f32::from_bits(join(x.to_bits(), y.to_bits()));
        }
        V::load(all.as_ptr())
    }
}

/// Floats whose largest magnitudes are found in registers. Its functions may be called only where the CPU has the
/// instructions.
pub(super) trait Magnitudes: Lanes {
    /// Returns the larger of `self`, which is not negative, and the magnitude of `x`, which is finite.
    unsafe fn abs_max(self, x: Self) -> Self;
    /// Stores four floats: the largest ones in lanes 0, 4, 8 ..., 1, 5, 9 ... and so on. None of them is negative.
    unsafe fn quarter(self, to: *mut f32);
}

/// Some 32-bit integers in registers, as many as [`Sums::Floats`] has floats. Its functions may be called only where the
/// CPU has the instructions.
pub(super) trait Sums: Copy {
    type Floats: Lanes;
    unsafe fn zero() -> Self;
    unsafe fn load(at: *const i32) -> Self;
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "not all kernels add up sums in parts"))]
    unsafe fn plus(self, y: Self) -> Self;
    /// Converts each of them to a float.
    unsafe fn floats(self) -> Self::Floats;

    /// Adds what [`Sums::biased_floats`] takes off.
    #[inline(always)]
    unsafe fn biased(self) -> Self {
        self
    }

    /// Converts sums that started from a [`Sums::biased`] one, whose magnitudes are below `2^22`.
    #[inline(always)]
    unsafe fn biased_floats(self) -> Self::Floats {
        // SAFETY: of the caller.
        unsafe { self.floats() }
    }
}

/// Two halves of a wider vector.
#[derive(Clone, Copy)]
pub(super) struct Pair<V>(pub V, pub V);

#[cfg(not(target_arch = "x86_64"))]
impl<V> Pair<Pair<V>> {
    /// Returns a quarter of a wider vector.
    #[inline(always)]
    pub fn quarter_mut(&mut self, i: usize) -> &mut V {
        match i {
            0 => &mut self.0.0,
            1 => &mut self.0.1,
            2 => &mut self.1.0,
            _ => &mut self.1.1,
        }
    }
}

impl<V: Lanes> Lanes for Pair<V> {
    const WIDTH: usize = 2 * V::WIDTH;
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(V::load(at), V::load(at.add(V::WIDTH))) }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe {
            self.0.store(at);
            self.1.store(at.add(V::WIDTH));
        }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(V::splat(x), V::splat(x)) }
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.add(y.0), self.1.add(y.1)) }
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.mul(y.0), self.1.mul(y.1)) }
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.mul_add::<ANY>(y.0, z.0), self.1.mul_add::<ANY>(y.1, z.1)) }
    }
    #[inline(always)]
    unsafe fn at_least(self, lo: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.at_least(lo.0), self.1.at_least(lo.1)) }
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.at_most(hi.0), self.1.at_most(hi.1)) }
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.note(y.0), self.1.note(y.1)) }
    }
    #[inline(always)]
    unsafe fn least_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.least_bits(x.0), self.1.least_bits(x.1)) }
    }
    #[inline(always)]
    unsafe fn most_bits(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.most_bits(x.0), self.1.most_bits(x.1)) }
    }
}

impl<V: Magnitudes> Magnitudes for Pair<V> {
    #[inline(always)]
    unsafe fn abs_max(self, x: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.abs_max(x.0), self.1.abs_max(x.1)) }
    }
    #[inline(always)]
    unsafe fn quarter(self, to: *mut f32) {
        // SAFETY: of the caller.
        unsafe { self.0.at_least(self.1).quarter(to) }
    }
}

impl<S: Sums> Sums for Pair<S> {
    type Floats = Pair<S::Floats>;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: of the caller.
        unsafe { Self(S::zero(), S::zero()) }
    }
    #[inline(always)]
    unsafe fn load(at: *const i32) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(S::load(at), S::load(at.add(S::Floats::WIDTH))) }
    }
    #[inline(always)]
    unsafe fn plus(self, y: Self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.plus(y.0), self.1.plus(y.1)) }
    }
    #[inline(always)]
    unsafe fn floats(self) -> Self::Floats {
        // SAFETY: of the caller.
        unsafe { Pair(self.0.floats(), self.1.floats()) }
    }
    #[inline(always)]
    unsafe fn biased(self) -> Self {
        // SAFETY: of the caller.
        unsafe { Self(self.0.biased(), self.1.biased()) }
    }
    #[inline(always)]
    unsafe fn biased_floats(self) -> Self::Floats {
        // SAFETY: of the caller.
        unsafe { Pair(self.0.biased_floats(), self.1.biased_floats()) }
    }
}

impl Lanes for [f32; LANES] {
    const WIDTH: usize = LANES;
    #[inline(always)]
    unsafe fn load(at: *const f32) -> Self {
        // SAFETY: of the caller.
        unsafe { at.cast::<Self>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, at: *mut f32) {
        // SAFETY: of the caller.
        unsafe { at.cast::<Self>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn add(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] + y[l])
    }
    #[inline(always)]
    unsafe fn mul(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] * y[l])
    }
    #[inline(always)]
    unsafe fn mul_add<const ANY: bool>(self, y: Self, z: Self) -> Self {
        std::array::from_fn(|l| math::mul_add(self[l], y[l], z[l]))
    }
    #[inline(always)]
    unsafe fn at_least(self, lo: Self) -> Self {
        std::array::from_fn(|l| if self[l] > lo[l] { self[l] } else { lo[l] })
    }
    #[inline(always)]
    unsafe fn at_most(self, hi: Self) -> Self {
        std::array::from_fn(|l| if self[l] < hi[l] { self[l] } else { hi[l] })
    }
    #[inline(always)]
    unsafe fn note(self, y: Self) -> Self {
        std::array::from_fn(|l| self[l] + 0.0 * y[l])
    }
}
