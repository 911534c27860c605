//! Chooses a format for every layer within a budget so that the outputs change least.

/// The number of sizes that [`allocate`] tells apart.
const CELLS: u64 = 1 << 17;

/// What one format of a layer takes and does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// What the layer takes of the budget in this format: bytes, for example.
    pub cost: u64,
    /// What it adds to the noise of the outputs, as [`Sensitivity::noise`](crate::Sensitivity::noise) says it.
    pub noise: f64,
}

/// Chooses one of the `choices` of every layer: those with the least sum of noise whose costs together are no more than
/// `budget`. Returns the place of each layer's choice; `None` where even the smallest ones take more.
///
/// This is the multiple-choice knapsack problem, solved by dynamic programming over the costs beyond the smallest choices (Kellerer,
/// Pferschy, Pisinger, *Knapsack Problems*, 2004, chapter 11). Up to 131,072 of them every unit counts and the result is the
/// best there is. Of more, costs are rounded up to whole cells, 1/131,072 of them each, so that the budget is kept, and the
/// result is at least as good as the best for a budget that is less by a cell for each layer: a thousandth, for 131 layers.
///
/// # Panics
/// If a layer has no choice, or a noise is NaN.
pub fn allocate(layers: &[Vec<Choice>], budget: u64) -> Option<Vec<usize>> {
    let smallest = |choices: &Vec<Choice>| choices.iter().map(|choice| choice.cost).min().expect("a layer has choices");
    let least: u64 = layers.iter().map(smallest).sum();
    let room = budget.checked_sub(least)?;
    let most: u64 = layers.iter().map(|c| c.iter().map(|choice| choice.cost).max().unwrap_or(0) - smallest(c)).sum();
    if room >= most {
        // Costs in cells, which are rounded up, would take more than there is.
        let least_noise = |choices: &Vec<Choice>| {
            let order = |&a: &usize, &b: &usize| {
                let (a, b) = (choices[a], choices[b]);
                a.noise.total_cmp(&b.noise).then(a.cost.cmp(&b.cost))
            };
            (0..choices.len()).min_by(order).expect("a layer has choices")
        };
        return Some(layers.iter().map(least_noise).collect());
    }
    let cell = room.div_ceil(CELLS).max(1);
    let cells = (room / cell) as usize;

    // best[i] is the least noise of the layers so far that take no more than i cells beyond their smallest choices.
    let mut best = vec![0.0; cells + 1];
    let mut chosen: Vec<Vec<u16>> = Vec::with_capacity(layers.len());
    for choices in layers {
        let base = smallest(choices);
        let mut order: Vec<usize> = (0..choices.len()).collect();
        // Of equal noise the smaller one, of equal size the first one.
        order.sort_by_key(|&i| choices[i].cost);
        let mut next = vec![f64::INFINITY; cells + 1];
        let mut picks = vec![0; cells + 1];
        for &i in &order {
            let Choice { cost, noise } = choices[i];
            assert!(!noise.is_nan(), "noise is a number");
            let extra = usize::try_from((cost - base).div_ceil(cell)).unwrap_or(usize::MAX);
            for at in extra..=cells {
                let sum = best[at - extra] + noise;
                // The first one stands even where all are infinite.
                if sum < next[at] || (i == order[0] && next[at].is_infinite()) {
                    (next[at], picks[at]) = (sum, i as u16);
                }
            }
        }
        best = next;
        chosen.push(picks);
    }

    let mut at = cells;
    let mut picked = vec![0; layers.len()];
    for (layer, picks) in chosen.iter().enumerate().rev() {
        let choices = &layers[layer];
        picked[layer] = usize::from(picks[at]);
        at -= ((choices[picked[layer]].cost - smallest(choices)).div_ceil(cell)) as usize;
    }
    Some(picked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// The sum of bytes and noise of some choices.
    fn sums(layers: &[Vec<Choice>], picked: &[usize]) -> (u64, f64) {
        let choices = || layers.iter().zip(picked).map(|(choices, &i)| choices[i]);
        (choices().map(|choice| choice.cost).sum(), choices().map(|choice| choice.noise).sum())
    }

    /// The least noise within the budget, by trying everything.
    fn brute_force(layers: &[Vec<Choice>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = layers.split_first() else { return Some(0.0) };
        let noise = |choice: &Choice| Some(choice.noise + brute_force(rest, budget.checked_sub(choice.cost)?)?);
        first.iter().filter_map(noise).min_by(f64::total_cmp)
    }

    /// Layers of random sizes, in formats of 2 to 5 steps with noise that mostly falls with size, as of bits.
    fn random_layers(random: &mut Random, count: usize, largest: usize) -> Vec<Vec<Choice>> {
        let layer = |random: &mut Random| {
            let size = 1 + random.below(largest) as u64;
            let loud = 1.0 + random.below(1000) as f64;
            let choices = 2 + random.below(4) as u64;
            (0..choices)
                .map(|i| Choice {
                    cost: size * (2 + i) + random.below(3) as u64,
                    noise: loud / 4f64.powi(i as i32) + random.below(3) as f64,
                })
                .collect()
        };
        (0..count).map(|_| layer(random)).collect()
    }

    #[test]
    fn is_as_good_as_trying_everything() {
        let mut random = Random::new(1, &[]);
        let mut met = 0;
        for _ in 0..300 {
            let count = 1 + random.below(6);
            let layers = random_layers(&mut random, count, 40);
            let least: u64 = layers.iter().map(|c| c.iter().map(|choice| choice.cost).min().unwrap()).sum();
            let budget = (least + random.below(200) as u64).saturating_sub(20);
            let found = allocate(&layers, budget);
            let expected = brute_force(&layers, budget);
            assert_eq!(found.is_some(), expected.is_some(), "{layers:?} {budget}");
            if let (Some(found), Some(expected)) = (found, expected) {
                let (bytes, noise) = sums(&layers, &found);
                assert!(bytes <= budget, "{bytes} of {budget}");
                assert!((noise - expected).abs() < 1e-9, "{noise} {expected}: {layers:?} {budget}");
                met += 1;
            }
        }
        assert!((200..300).contains(&met), "{met} budgets can be met");
    }

    #[test]
    fn large_sizes_keep_the_budget_and_are_nearly_as_good() {
        let mut random = Random::new(2, &[]);
        for _ in 0..20 {
            let layers = random_layers(&mut random, 6, 4_000_000);
            let least: u64 = layers.iter().map(|c| c.iter().map(|choice| choice.cost).min().unwrap()).sum();
            let budget = least + 1_000_000 + random.below(20_000_000) as u64;
            let found = allocate(&layers, budget).unwrap();
            let (bytes, noise) = sums(&layers, &found);
            assert!(bytes <= budget);
            // A cell for each of the 6 layers.
            let smaller = budget - 6 * (budget - least).div_ceil(CELLS);
            assert!(noise <= brute_force(&layers, smaller).unwrap() + 1e-9);
        }
    }

    #[test]
    fn budgets_at_the_ends() {
        let choice = |cost, noise| Choice { cost, noise };
        let layers = vec![vec![choice(8, 0.1), choice(4, 1.0)], vec![choice(2, 5.0), choice(6, 5.0)]];
        assert_eq!(allocate(&layers, 5), None);
        assert_eq!(allocate(&layers, 6), Some(vec![1, 0]));
        // All of it: yet nothing is spent on what makes nothing better.
        assert_eq!(allocate(&layers, u64::MAX), Some(vec![0, 0]));
        assert_eq!(allocate(&[], 0), Some(vec![]));
        // Costs of more than the cells, each of which is rounded up.
        let many = vec![vec![choice(1, 1.0), choice(CELLS + 2, 0.5)]; 20];
        assert_eq!(allocate(&many, u64::MAX), Some(vec![1; 20]));
        // A format that no number can tell is taken only where no other fits.
        let broken = vec![vec![choice(1, f64::INFINITY), choice(3, 2.0)], vec![choice(1, f64::INFINITY)]];
        assert_eq!(allocate(&broken, 2), Some(vec![0, 0]));
    }
}
