//! What rules have decided about, since the slice came to the node.

use std::collections::BTreeMap;

use slicewire_api::{NodePolicy, RuleHits};
use slicewire_core::policy::{Because, Counted, Direction};
use slicewire_kernel::Count;

/// A rule: policy, direction, place; none: what no rule lists.
type Place = (String, &'static str, Option<i32>);

/// What a slice's default has decided about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DefaultHits {
    /// Connections it decided about.
    pub(crate) hits: u64,
    /// Connections it would have dropped, were it not in audit mode.
    pub(crate) would_drop: u64,
}

/// Sums of counters that begin anew whenever rules do.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// By the kernel's counter.
    last: BTreeMap<String, u64>,
    sums: BTreeMap<Place, (u64, u64)>,
    default: DefaultHits,
}

impl Counts {
    /// Goes on from what was reported before this process began.
    pub(super) fn continued(before: &[NodePolicy]) -> Self {
        let mut counts = Self::default();
        for policy in before {
            for hits in &policy.hits {
                let direction = if hits.direction == "ingress" { "ingress" } else { "egress" };
                let place = (policy.policy.clone(), direction, hits.rule);
                let number = |n: i64| u64::try_from(n).unwrap_or_default();
                counts.sums.insert(place, (number(hits.hits), number(hits.would_drop)));
            }
        }
        counts
    }

    /// All counters begin anew.
    pub(super) fn restart(&mut self) {
        self.last.clear();
    }

    /// Adds what has been counted since the last time. `name_of` says what a policy is told about
    /// under, by the name that is unique in the slice.
    pub(super) fn take(
        &mut self,
        names: &BTreeMap<String, Counted>,
        counters: &BTreeMap<String, Count>,
        name_of: impl Fn(&str) -> Option<String>,
    ) {
        let mut last = BTreeMap::new();
        for (counter, counted) in names {
            let Some(now) = counters.get(counter).map(|count| count.packets) else { continue };
            let before = self.last.get(counter).copied().unwrap_or_default();
            // One that was made anew has begun anew.
            let more = now.checked_sub(before).unwrap_or(now);
            last.insert(counter.clone(), now);
            if more > 0 {
                self.add(counted, more, &name_of);
            }
        }
        self.last = last;
    }

    fn add(&mut self, counted: &Counted, more: u64, name_of: &impl Fn(&str) -> Option<String>) {
        let (because, audited) = match counted {
            Counted::Decided(because) => (because, false),
            Counted::Audited(because) => (because, true),
        };
        let add = |sum: &mut u64| *sum = sum.saturating_add(more);
        let place = match because {
            Because::Default(_) if audited => return add(&mut self.default.would_drop),
            Because::Default(_) => return add(&mut self.default.hits),
            Because::Rule(rule) => name_of(&rule.policy)
                .map(|name| (name, word(rule.direction), i32::try_from(rule.index).ok())),
            Because::Unlisted(policy, direction) => {
                name_of(policy).map(|name| (name, word(*direction), None))
            }
        };
        let Some(place) = place else { return };
        let sum = self.sums.entry(place).or_default();
        add(if audited { &mut sum.1 } else { &mut sum.0 });
    }

    /// What a policy has decided about.
    pub(super) fn of(&self, policy: &str) -> Vec<RuleHits> {
        let from = (policy.to_owned(), "", None);
        let own = self.sums.range(from..).take_while(|((name, ..), _)| name == policy);
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        own.map(|((_, direction, rule), (hits, would_drop))| RuleHits {
            direction: (*direction).to_owned(),
            rule: *rule,
            hits: number(*hits),
            would_drop: number(*would_drop),
        })
        .collect()
    }

    /// What the slice's default has decided about.
    pub(super) fn defaults(&self) -> DefaultHits {
        self.default
    }
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

#[cfg(test)]
mod tests {
    use slicewire_core::policy::RuleRef;

    use super::*;

    fn rule(index: usize) -> Because {
        let policy = "shop/web".into();
        Because::Rule(RuleRef { policy, direction: Direction::Ingress, index })
    }

    fn counters(numbers: &[(&str, u64)]) -> BTreeMap<String, Count> {
        let count = |packets| Count { packets, bytes: 0 };
        numbers.iter().map(|(name, n)| ((*name).to_owned(), count(*n))).collect()
    }

    #[test]
    fn nothing_is_counted_twice_and_what_begins_anew_goes_on() {
        let names = BTreeMap::from([
            ("counter-1".to_owned(), Counted::Decided(rule(0))),
            ("counter-2".to_owned(), Counted::Audited(rule(0))),
            ("counter-3".to_owned(), Counted::Decided(Because::Default(Direction::Egress))),
        ]);
        let before = NodePolicy {
            policy: "web".into(),
            hits: vec![RuleHits {
                direction: "ingress".into(),
                rule: Some(0),
                hits: 5,
                would_drop: 0,
            }],
            ..NodePolicy::default()
        };
        let mut counts = Counts::continued(&[before]);
        let name = |key: &str| key.strip_prefix("shop/").map(str::to_owned);
        counts.take(&names, &counters(&[("counter-1", 3), ("counter-2", 2)]), name);
        counts.take(&names, &counters(&[("counter-1", 4), ("counter-3", 9)]), name);
        let told = counts.of("web");
        assert_eq!((told.len(), told[0].hits, told[0].would_drop), (1, 9, 2));
        assert_eq!(counts.defaults(), DefaultHits { hits: 9, would_drop: 0 });
        counts.restart();
        counts.take(&names, &counters(&[("counter-1", 4)]), name);
        assert_eq!(counts.of("web")[0].hits, 13);
        assert!(counts.of("we").is_empty() && counts.of("webs").is_empty());
    }
}
