//! The format: what is transformed, how it lies in memory, and the plain loops that it is compared with.
//!
//! | letter | meaning |
//! |---|---|
//! | `d`, `V = B^T d B` | a 4x4 patch of codes of a channel, and its transform |
//! | `g`, `U = 4 G g G^T` | a 3x3 filter of codes of a channel, and 4 times its transform: whole numbers |
//! | `M` | the 16 sums of `U V` over channels; `A^T M A / 4` are 2x2 outputs |
//!
//! `V` is stored as `V + offset`, an unsigned byte; sums in 16 bits begin at `-offset * (sum of U)`, so that they are those of `V`.

/// The outputs of a panel.
pub const PANEL: usize = 16;

/// The positions of a transformed patch.
pub const POSITIONS: usize = 16;

/// The tiles that are multiplied at a time.
pub const GROUP: usize = 4;

/// The codes of an input: `-largest..=largest` where signed, `0..=largest` otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codes {
    pub largest: i32,
    pub signed: bool,
}

impl Codes {
    /// Returns the limits of `V` at a position. Each is a sum of four codes, two of them negative but for position (1, 1).
    pub fn limits(self, position: usize) -> (i32, i32) {
        match (self.signed, position) {
            (true, _) => (-4 * self.largest, 4 * self.largest),
            (false, 5) => (0, 4 * self.largest),
            (false, _) => (-2 * self.largest, 2 * self.largest),
        }
    }
}

/// A 3x3 convolution, stride 1, padding 1, of an image of `side` by `side` pixels.
#[derive(Debug, Clone)]
pub struct Layer {
    pub ci: usize,
    pub co: usize,
    pub side: usize,
    pub codes: Codes,
    /// Channels of a block.
    pub block: usize,
    /// `[Co, Ci, 3, 3]`
    pub q: Vec<i8>,
    /// `[Co, Ci / block]`, one for the nine taps of a block; whole numbers where the sums of blocks are added as integers.
    pub alpha: Vec<f32>,
    /// What outputs are multiplied by at the end, `[Co]`.
    pub channel: Vec<f32>,
    pub bias: Vec<f32>,
}

impl Layer {
    pub fn blocks(&self) -> usize {
        self.ci / self.block
    }

    /// Returns the tiles of a row.
    pub fn across(&self) -> usize {
        self.side.div_ceil(2)
    }

    /// Returns the 16 values `U` of an output's channel.
    pub fn transformed(&self, o: usize, c: usize) -> [i32; POSITIONS] {
        const TWICE_G: [[i32; 3]; 4] = [[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]];
        let g = &self.q[(o * self.ci + c) * 9..][..9];
        std::array::from_fn(|at| {
            let (row, column) = (TWICE_G[at / 4], TWICE_G[at % 4]);
            (0..9).map(|tap| row[tap / 3] * column[tap % 3] * i32::from(g[tap])).sum()
        })
    }

    /// Returns the sums of a block of every output by plain loops, without scales: `[Ci / block, side, side, Co]`.
    #[cfg(test)]
    pub fn plain(&self, x: &[u8]) -> Vec<i32> {
        let side = self.side as isize;
        let mut sums = vec![0; self.blocks() * self.side * self.side * self.co];
        for (at, sum) in sums.iter_mut().enumerate() {
            let (o, rest) = (at % self.co, at / self.co);
            let (column, rest) = ((rest % self.side) as isize, rest / self.side);
            let (row, block) = ((rest % self.side) as isize, rest / self.side);
            for tap in 0..9 {
                let (i, j) = (row + tap / 3 - 1, column + tap % 3 - 1);
                if i < 0 || j < 0 || i >= side || j >= side {
                    continue;
                }
                for c in block * self.block..(block + 1) * self.block {
                    let a = x[(i * side + j) as usize * self.ci + c];
                    let a = if self.codes.signed { i32::from(a.cast_signed()) } else { i32::from(a) };
                    *sum += a * i32::from(self.q[(o * self.ci + c) * 9 + tap as usize]);
                }
            }
        }
        sums
    }
}

/// How the sums of blocks are added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Adds {
    /// As integers, each times the whole factors of its weights and inputs: `[panel, position, block]`.
    Integers,
    /// As floats, after the transform of the block's sums to outputs: `[panel, block, position]`.
    Floats,
}

/// Transformed weights: `[panel, position, chunk, step, 16 outputs, 4 channels]` or `[panel, chunk, position, ...]`.
pub struct Packed {
    pub adds: Adds,
    /// Steps of four channels whose sums fit 16 bits, for any input.
    pub steps: usize,
    /// Chunks of so many steps in a block.
    pub chunks: usize,
    pub blocks: usize,
    pub data: Vec<i8>,
    /// What the sums of a chunk begin at: `[..., chunk, 16 outputs, 2]`.
    pub start: Vec<i16>,
}

impl Packed {
    /// Packs in the longest chunks of at most `longest` steps that fit, or returns nothing if not even one step does.
    pub fn new(layer: &Layer, adds: Adds, longest: usize) -> Option<Self> {
        let u: Vec<_> = (0..layer.co * layer.ci).map(|at| layer.transformed(at / layer.ci, at % layer.ci)).collect();
        let mut steps = layer.block / 4;
        while steps > longest || !fits(layer, &u, steps) {
            if steps == 1 {
                return None;
            }
            steps = steps.div_ceil(2);
            if !(layer.block / 4).is_multiple_of(steps) {
                return None;
            }
        }
        let (blocks, chunks) = (layer.blocks(), layer.block / 4 / steps);
        let mut packed = Self { adds, steps, chunks, blocks, data: vec![0; u.len() * POSITIONS], start: vec![] };
        packed.start = vec![0; packed.data.len() / (steps * 64) * 32];
        for panel in 0..layer.co / PANEL {
            for position in 0..POSITIONS {
                let (low, _) = layer.codes.limits(position);
                for chunk in 0..blocks * chunks {
                    let at = packed.chunk(panel, position, chunk);
                    for (step, o, i) in (0..steps * 64).map(|n| (n / 64, n / 4 % PANEL, n % 4)) {
                        let c = (chunk * steps + step) * 4 + i;
                        let u = u[(panel * PANEL + o) * layer.ci + c][position];
                        packed.data[at * steps * 64 + step * 64 + o * 4 + i] = u.try_into().ok()?;
                        // Sums wrap around, and end within 16 bits.
                        let start = &mut packed.start[at * 32 + o * 2 + i / 2];
                        *start = start.wrapping_add((low * u) as i16);
                    }
                }
            }
        }
        Some(packed)
    }

    /// Returns where a chunk lies, in chunks.
    pub fn chunk(&self, panel: usize, position: usize, chunk: usize) -> usize {
        let all = self.blocks * self.chunks;
        match self.adds {
            Adds::Integers => (panel * POSITIONS + position) * all + chunk,
            Adds::Floats => {
                let (block, chunk) = (chunk / self.chunks, chunk % self.chunks);
                ((panel * self.blocks + block) * POSITIONS + position) * self.chunks + chunk
            }
        }
    }
}

/// Tells whether the sums of chunks of so many steps fit 16 bits with any codes: of each half of a step, over a chunk's steps the
/// sum of `U V`, and of one step the sum of `U (V + offset)`, which must not saturate.
fn fits(layer: &Layer, u: &[[i32; POSITIONS]], steps: usize) -> bool {
    (0..POSITIONS).all(|position| {
        let (low, high) = layer.codes.limits(position);
        let within = |low: i32, high: i32| low >= i16::MIN.into() && high <= i16::MAX.into();
        u.chunks(layer.ci).all(|filter| {
            filter.chunks(steps * 4).all(|chunk| {
                (0..2).all(|half| {
                    let (mut least, mut most) = (0, 0);
                    chunk.chunks(4).all(|step| {
                        let (a, b) = (step[half * 2][position], step[half * 2 + 1][position]);
                        for u in [a, b] {
                            least += (u * low).min(u * high);
                            most += (u * low).max(u * high);
                        }
                        let width = high - low;
                        width <= 255 && within((a.min(0) + b.min(0)) * width, (a.max(0) + b.max(0)) * width)
                    }) && within(least, most)
                })
            })
        })
    })
}
