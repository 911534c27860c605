//! Rules that say nothing: those that contradict themselves, and those that others decide over.
use graph::{Graph, Op};

use crate::pattern::matches;
use crate::policy::{ActivationRule, Policy, Rule};

/// Why a rule of a policy is without effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleError {
    /// A rule keeps its layers in floats and says something of their numbers, too.
    #[error("`{key}` is without effect beside `skip = true`, which keeps `{pattern}` in floats")]
    Skipped {
        /// The place of the rule among the policy's.
        index: usize,
        /// The rule's pattern.
        pattern: String,
        /// The first key beside `skip`.
        key: &'static str,
    },
    /// What a rule says of its layers, another one says otherwise.
    #[error("the rule for `{pattern}` is without effect: the one for `{by}` decides of the same layers")]
    Overruled {
        /// The place of the rule among the policy's.
        index: usize,
        /// The rule's pattern.
        pattern: String,
        /// The pattern of the rule that decides.
        by: String,
    },
    /// A rule is for fully connected layers alone, which stay in floats.
    #[error("the rule for `{pattern}` is without effect: `linear = false` keeps fully connected layers in floats")]
    Linear {
        /// The place of the rule among the policy's.
        index: usize,
        /// The rule's pattern.
        pattern: String,
    },
}

impl RuleError {
    /// Returns the place of the rule among the policy's.
    pub fn index(&self) -> usize {
        match self {
            Self::Skipped { index, .. } | Self::Overruled { index, .. } | Self::Linear { index, .. } => *index,
        }
    }

    /// Returns advice for the user.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Skipped { .. } => "leave one of them out",
            Self::Overruled { .. } => {
                "leave one of them out; of several rules the last one that sets a key counts, and `skip = true` holds until a later \
                 rule says `skip = false`"
            }
            Self::Linear { .. } => "`skip = false` in the rule quantizes its layers all the same; else leave it out",
        }
    }
}

/// What a rule can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Bits,
    Block,
    Rule,
    Scales,
    /// The input's bits, block and scale.
    Input(&'static str),
    /// The input in floats.
    Floats,
    Skip,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::Bits => "bits",
            Self::Block => "block",
            Self::Rule => "rule",
            Self::Scales => "scales",
            Self::Input(_) | Self::Floats => "activation",
            Self::Skip => "skip",
        }
    }

    /// Tells whether a later rule that sets `other` leaves nothing of what this one says.
    fn is_replaced_by(self, other: Self) -> bool {
        self == other || (matches!(self, Self::Input(_)) && other == Self::Floats)
    }
}

/// Returns the keys that a rule sets.
fn keys(rule: &Rule) -> Vec<Key> {
    let input = match rule.activation {
        None => [None; 3],
        Some(ActivationRule::Off) => [Some(Key::Floats), None, None],
        Some(ActivationRule::Change(change)) => [
            change.bits.map(|_| Key::Input("bits")),
            change.block.map(|_| Key::Input("block")),
            change.scale.map(|_| Key::Input("scale")),
        ],
    };
    let own = [
        rule.bits.map(|_| Key::Bits),
        rule.block.map(|_| Key::Block),
        rule.rule.map(|_| Key::Rule),
        rule.scales.map(|_| Key::Scales),
    ];
    own.into_iter().chain(input).chain([rule.skip.map(|_| Key::Skip)]).flatten().collect()
}

impl Policy {
    /// Checks that each rule says something of a layer that no other rule says otherwise. [`Policy::resolve`] does not ask: rules of
    /// several origins may well replace each other.
    ///
    /// # Errors
    /// [`RuleError`] for the first rule that is without effect. A rule that is for no layer, or sets nothing, is none of these.
    pub fn check_rules(&self, graph: &Graph) -> Result<(), RuleError> {
        let layers: Vec<_> = graph.nodes().iter().filter(|node| node.weight_shape().is_some()).collect();
        for (index, rule) in self.rules.iter().enumerate() {
            let (pattern, keys) = (rule.layers.clone(), keys(rule));
            if rule.skip == Some(true)
                && let Some(key) = keys.iter().find(|key| **key != Key::Skip)
            {
                return Err(RuleError::Skipped { index, pattern, key: key.name() });
            }
            let own: Vec<_> = layers.iter().filter(|node| matches(&pattern, &node.name)).collect();
            let deciders: Vec<Option<Decider<'_>>> =
                own.iter().map(|node| self.decider(index, &keys, &node.name, &node.op)).collect();
            match deciders.into_iter().collect::<Option<Vec<_>>>().as_deref() {
                Some([Decider::Rule(by), ..]) if !keys.is_empty() => {
                    return Err(RuleError::Overruled { index, pattern, by: (*by).to_owned() });
                }
                Some([Decider::Linear, ..]) if !keys.is_empty() => return Err(RuleError::Linear { index, pattern }),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns what decides of a layer in place of the rule at `index`; `None` where that rule does.
    fn decider(&self, index: usize, keys: &[Key], layer: &str, op: &Op) -> Option<Decider<'_>> {
        let of_layer = |rule: &&Rule| matches(&rule.layers, layer);
        let skip = self.rules.iter().rev().filter(of_layer).find(|rule| rule.skip.is_some());
        if !keys.contains(&Key::Skip) {
            match skip {
                Some(rule) if rule.skip == Some(true) => return Some(Decider::Rule(&rule.layers)),
                None if !self.linear && matches!(op, Op::Linear { .. }) => return Some(Decider::Linear),
                _ => {}
            }
        }
        let later: Vec<&Rule> = self.rules[index + 1..].iter().filter(of_layer).collect();
        let replaced = |key: &Key| {
            let found = later.iter().find(|rule| self::keys(rule).iter().any(|other| key.is_replaced_by(*other)));
            found.map(|rule| Decider::Rule(&rule.layers))
        };
        let deciders: Option<Vec<Decider<'_>>> = keys.iter().map(replaced).collect();
        deciders.and_then(|deciders| deciders.into_iter().next())
    }
}

/// What decides of a layer in a rule's place.
enum Decider<'a> {
    /// The rule of this pattern.
    Rule(&'a str),
    /// `linear = false`.
    Linear,
}

#[cfg(test)]
mod tests {
    use graph::{Builder, Conv2d, Shape};

    use super::*;
    use crate::policy::ActivationChange;

    /// Two convolutions, `a` and `b`, and a linear layer `fc`.
    fn graph() -> Graph {
        let mut b = Builder::new("n", Shape::new(3, 4, 4));
        let x = b.conv("a", Conv2d::new(3, 4, 3), b.input());
        let x = b.conv("b", Conv2d::new(4, 4, 1), x);
        let x = b.push("flatten", Op::Flatten, vec![x]);
        b.linear("fc", 2, x);
        b.finish().unwrap()
    }

    fn checked(linear: bool, rules: &[Rule]) -> Result<(), String> {
        let policy = Policy { linear, rules: rules.to_vec(), ..Policy::default() };
        policy.check_rules(&graph()).map_err(|error| format!("{}: {error}", error.index()))
    }

    fn bits(layers: &str, bits: u8) -> Rule {
        Rule { layers: layers.into(), bits: Some(blockfloat::Bits::new(bits).unwrap()), ..Rule::default() }
    }

    fn skip(layers: &str, skip: bool) -> Rule {
        Rule { layers: layers.into(), skip: Some(skip), ..Rule::default() }
    }

    #[test]
    fn rules_that_say_something_are_taken() {
        let input = |layers: &str, change| Rule {
            activation: Some(change),
            ..Rule { layers: layers.into(), ..Rule::default() }
        };
        let block = ActivationChange { block: Some(blockfloat::BlockSize::PIXEL), ..ActivationChange::default() };
        let of_bits = ActivationChange { bits: Some(blockfloat::Bits::MAX), ..ActivationChange::default() };
        let taken: [&[Rule]; 6] = [
            &[],
            // All but one.
            &[skip("*", true), Rule { bits: Some(blockfloat::Bits::MAX), ..skip("a", false) }],
            &[bits("*", 3), skip("a", true)],
            &[bits("*", 3), bits("a", 8)],
            // Each sets what the other does not.
            &[input("a", ActivationRule::Change(block)), input("a", ActivationRule::Change(of_bits))],
            &[bits("a", 8), Rule { scales: Some(blockfloat::ScaleFormat::TwoLevel), ..skip("a", false) }],
        ];
        for rules in taken {
            assert_eq!(checked(true, rules), Ok(()), "{rules:?}");
        }
        let included = Rule { skip: Some(false), ..bits("fc", 8) };
        assert_eq!(checked(false, &[bits("*", 3), included]), Ok(()));
    }

    #[test]
    fn rules_without_effect_are_refused() {
        let both = Rule { skip: Some(true), ..bits("a", 8) };
        let by = |pattern: &str, by: &str| {
            format!("the rule for `{pattern}` is without effect: the one for `{by}` decides of the same layers")
        };
        let refused: [(bool, &[Rule], String); 6] = [
            (
                true,
                &[bits("b", 3), both],
                "1: `bits` is without effect beside `skip = true`, which keeps `a` in floats".into(),
            ),
            (true, &[skip("a", true), bits("a", 8)], format!("1: {}", by("a", "a"))),
            (true, &[bits("a", 8), skip("?", true)], format!("0: {}", by("a", "?"))),
            (true, &[bits("?", 8), bits("*", 3)], format!("0: {}", by("?", "*"))),
            (true, &[skip("a", false), skip("a", true)], format!("0: {}", by("a", "a"))),
            (
                false,
                &[bits("fc", 8)],
                "0: the rule for `fc` is without effect: `linear = false` keeps fully connected layers in floats"
                    .into(),
            ),
        ];
        for (linear, rules, why) in refused {
            assert_eq!(checked(linear, rules), Err(why), "{rules:?}");
        }
    }
}
