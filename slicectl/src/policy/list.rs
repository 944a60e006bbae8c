//! Slices' policies and what they came to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use slicewire_api::condition::{ACCEPTED, PROGRAMMED};
use slicewire_api::{
    Enforcement, PolicyClusterStatus, PolicyDefault, SlicePolicy, SlicePolicySpec,
};
use slicewire_core::member::sentence;
use slicewire_core::policy::{Action, Mode, Policy, Tier};

use super::known::Slice;
use crate::table::layout;

const HEAD: [&str; 11] = [
    "ORDER",
    "POLICY",
    "TIER",
    "DOES",
    "MODE",
    "CLUSTER",
    "PODS",
    "HITS",
    "WOULD DROP",
    "IN FORCE",
    "NEVER HIT",
];

/// The tables, and whether everything is carried out as it is written.
pub(super) fn render(slices: &BTreeMap<(String, String), Slice>) -> (String, bool) {
    let (mut text, mut carried_out) = (String::new(), true);
    for ((project, name), slice) in slices {
        let default = match (slice.config.spec.policy.default, slice.config.spec.policy.enforce) {
            (PolicyDefault::Open, _) => "open",
            (PolicyDefault::Deny, Enforcement::Enforce) => "deny",
            (PolicyDefault::Deny, Enforcement::Audit) => "deny, only counted",
        };
        let count = match slice.policies.len() {
            1 => "1 policy".to_owned(),
            count => format!("{count} policies"),
        };
        let _ = writeln!(
            text,
            "slice {name} of project {project}: {count}; where none is about it: {default}"
        );
        let rows = rows(slice);
        if !rows.is_empty() {
            text.push_str(&layout(&HEAD, &rows));
        }
        if slice.config.spec.policy.apply_network_policies {
            text.push_str("and clusters' own NetworkPolicies, which the hub does not know\n");
        }
        for (name, why) in slice.policies.iter().flat_map(|(n, p)| broken(p).map(|w| (n, w))) {
            carried_out = false;
            let _ = writeln!(text, "  {name}: {why}");
        }
        text.push('\n');
    }
    if slices.is_empty() {
        text.push_str("no such slice\n");
    }
    (text, carried_out)
}

/// Policies in the order they are asked, a row for each cluster; those that cannot be carried out
/// come last.
fn rows(slice: &Slice) -> Vec<Vec<String>> {
    let set = slice.sources().set();
    let mut rows = Vec::new();
    let mut shown = Vec::new();
    for (key, policy) in set.in_order() {
        // Namespaces' policies have no order among them: all of them are asked last.
        let admin = set.admin().len();
        let order = match policy.tier {
            Tier::Admin { .. } => shown.len() + 1,
            Tier::Namespaced => admin + 1,
        };
        let name = key.rsplit('/').next().unwrap_or(key);
        shown.push(name.to_owned());
        if let Some(object) = slice.policies.get(name) {
            rows.extend(of_policy(slice, &order.to_string(), object, policy));
        }
    }
    for (name, object) in slice.policies.iter().filter(|(name, _)| !shown.contains(name)) {
        let mut row = vec!["-".to_owned(); HEAD.len()];
        row[1].clone_from(name);
        row[9] = "no".to_owned();
        row[4] = mode(object.spec.enforce.mode()).to_owned();
        rows.push(row);
    }
    rows
}

fn of_policy(
    slice: &Slice,
    order: &str,
    object: &SlicePolicy,
    policy: &Policy,
) -> Vec<Vec<String>> {
    let tier = match policy.tier {
        Tier::Admin { priority } => format!("admin {priority}"),
        Tier::Namespaced => {
            format!("namespace {}", object.spec.namespace.clone().unwrap_or_default())
        }
    };
    let name = object.metadata.name.clone().unwrap_or_default();
    let own = [order.to_owned(), name, tier, does(policy), mode(policy.mode).to_owned()];
    let nothing = vec![PolicyClusterStatus { name: "-".into(), ..PolicyClusterStatus::default() }];
    let status = object.status.as_ref();
    let clusters = status.map(|s| s.clusters.clone()).filter(|c| !c.is_empty());
    let mut rows = Vec::new();
    for cluster in clusters.unwrap_or(nothing) {
        let sum = |of: fn(&slicewire_api::RuleHits) -> i64| {
            cluster.rules.iter().fold(0i64, |sum, rule| sum.saturating_add(of(rule)))
        };
        let first = rows.is_empty();
        let left = own.iter().map(|cell| if first { cell.clone() } else { String::new() });
        let right = [
            sentence(&cluster.name),
            selected(slice, &cluster.name, policy),
            sum(|rule| rule.hits).to_string(),
            sum(|rule| rule.would_drop).to_string(),
            if cluster.programmed { "yes" } else { "no" }.to_owned(),
            never_hit(&object.spec, &cluster),
        ];
        rows.push(left.chain(right).collect());
    }
    rows
}

/// How many of a cluster's pods it selects, as far as the hub is told of them.
fn selected(slice: &Slice, cluster: &str, policy: &Policy) -> String {
    let pods = slice.pods.iter().find(|(name, _)| name.as_str() == cluster);
    let Some((_, known)) = pods else { return "?".to_owned() };
    let chosen = known.pods.values().filter(|pod| policy.subject.matches(&pod.identity));
    chosen.count().to_string()
}

/// Directions and what their rules do, as `egress Deny, Pass`.
fn does(policy: &Policy) -> String {
    let one = |(word, rules): (&str, &Option<Vec<slicewire_core::policy::Rule>>)| {
        let rules = rules.as_ref()?;
        let mut actions: Vec<&str> = Vec::new();
        for rule in rules {
            let action = match rule.action {
                Action::Allow => "Allow",
                Action::Deny => "Deny",
                Action::Pass => "Pass",
            };
            if !actions.contains(&action) {
                actions.push(action);
            }
        }
        let none = if policy.tier == Tier::Namespaced { "Allow nothing" } else { "nothing" };
        let actions = if actions.is_empty() { none.to_owned() } else { actions.join(", ") };
        Some(format!("{word} {actions}"))
    };
    let both = [("ingress", &policy.ingress), ("egress", &policy.egress)];
    both.into_iter().filter_map(one).collect::<Vec<_>>().join("; ")
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

/// Rules that have decided about nothing in a cluster, as `egress[1]`.
fn never_hit(spec: &SlicePolicySpec, cluster: &PolicyClusterStatus) -> String {
    let mut never = Vec::new();
    for (direction, rules) in [("ingress", &spec.ingress), ("egress", &spec.egress)] {
        for index in 0..rules.as_ref().map_or(0, Vec::len) {
            let number = i32::try_from(index).ok();
            let hit = cluster.rules.iter().any(|r| {
                r.direction == direction
                    && r.rule == number
                    && r.hits.saturating_add(r.would_drop) > 0
            });
            if !hit {
                never.push(format!("{direction}[{index}]"));
            }
        }
    }
    if never.is_empty() { "-".to_owned() } else { never.join(" ") }
}

/// Why a policy is not carried out as it is written.
fn broken(policy: &SlicePolicy) -> Option<String> {
    let Some(status) = &policy.status else {
        return Some("the hub has not looked at it yet".to_owned());
    };
    if status.observed_generation != policy.metadata.generation {
        return Some("the hub has not looked at its last change yet".to_owned());
    }
    let no =
        |type_: &str| status.conditions.iter().find(|c| c.type_ == type_ && c.status != "True");
    let found = no(ACCEPTED).or_else(|| no(PROGRAMMED))?;
    Some(format!("{} ({})", sentence(&found.message), found.reason))
}

#[cfg(test)]
mod tests {
    use slicewire_api::{
        PolicyRule, RuleAction, RuleHits, SliceConfig, SliceConfigSpec, SlicePolicyStatus,
    };

    use super::*;

    fn policy(name: &str, spec: SlicePolicySpec, hits: i64) -> SlicePolicy {
        let mut policy = SlicePolicy::new(name, spec);
        let rule =
            RuleHits { direction: "egress".into(), rule: Some(0), hits, ..RuleHits::default() };
        let cluster = |name: &str, rules| PolicyClusterStatus {
            name: name.into(),
            programmed: true,
            rules,
            ..PolicyClusterStatus::default()
        };
        policy.status = Some(SlicePolicyStatus {
            clusters: vec![cluster("east", vec![rule]), cluster("west", Vec::new())],
            ..SlicePolicyStatus::default()
        });
        policy
    }

    fn slice(policies: Vec<SlicePolicy>) -> BTreeMap<(String, String), Slice> {
        let mut slice = Slice::new(SliceConfig::new("blue", SliceConfigSpec::default()));
        for policy in policies {
            slice.policies.insert(policy.metadata.name.clone().unwrap(), policy);
        }
        [(("demo".to_owned(), "blue".to_owned()), slice)].into()
    }

    fn admin(priority: i32, action: RuleAction) -> SlicePolicySpec {
        SlicePolicySpec {
            slice: "blue".into(),
            priority: Some(priority),
            egress: Some(vec![PolicyRule { action, ..PolicyRule::default() }]),
            ..SlicePolicySpec::default()
        }
    }

    #[test]
    fn policies_are_in_the_order_they_are_asked_with_what_each_cluster_counted() {
        let shop = SlicePolicySpec {
            slice: "blue".into(),
            namespace: Some("shop".into()),
            enforce: Enforcement::Audit,
            ingress: Some(Vec::new()),
            ..SlicePolicySpec::default()
        };
        let (text, fine) = render(&slice(vec![
            policy("late", admin(20, RuleAction::Deny), 7),
            policy("web", shop, 0),
            policy("zero", admin(0, RuleAction::Pass), 0),
        ]));
        assert!(fine, "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("1") && lines[2].contains("zero"), "{text}");
        for part in ["2", "late", "admin 20", "egress Deny", "enforce", "east", " 7 ", "yes"] {
            assert!(lines[4].contains(part), "{part}: {text}");
        }
        assert!(lines[4].ends_with('-') && lines[5].ends_with("egress[0]"), "{text}");
        assert!(lines[6].contains("ingress Allow nothing") && lines[6].contains("audit"), "{text}");
    }

    #[test]
    fn what_is_not_carried_out_is_told_and_why() {
        let mut broken = policy("bad", admin(2000, RuleAction::Deny), 0);
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
        );
        let message = "spec.priority is outside 0 to 1000".to_owned();
        let condition =
            slicewire_api::condition::condition(ACCEPTED, false, "Priority", message, None, now);
        broken.status.as_mut().unwrap().conditions.push(condition);
        let (text, fine) = render(&slice(vec![broken]));
        assert!(
            !fine && text.contains("bad: spec.priority is outside 0 to 1000 (Priority)"),
            "{text}"
        );
        assert!(text.lines().nth(2).unwrap().contains("no"), "{text}");
    }
}
