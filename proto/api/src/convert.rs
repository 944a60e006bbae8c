//! From API types to the domain, at the border.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use slicewire_core::onboarding::Rule;
use slicewire_core::selector::{Operator, Requirement, Selector};
use slicewire_core::violation::Violation;

use crate::NamespaceRule;

/// Converts a label selector.
///
/// # Errors
/// Every requirement with an operator that does not exist or values that do not fit it.
pub fn selector(field: &str, from: &LabelSelector) -> Result<Selector, Vec<Violation>> {
    let mut requirements: Vec<Requirement> = from
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: vec![value.clone()],
        })
        .collect();
    let mut faults = Vec::new();
    for (i, expression) in from.match_expressions.iter().flatten().enumerate() {
        let at = format!("{field}.matchExpressions[{i}]");
        let values = expression.values.clone().unwrap_or_default();
        let (operator, wants_values) = match expression.operator.as_str() {
            "In" => (Operator::In, true),
            "NotIn" => (Operator::NotIn, true),
            "Exists" => (Operator::Exists, false),
            "DoesNotExist" => (Operator::DoesNotExist, false),
            other => {
                faults.push(Violation::new(
                    format!("{at}.operator"),
                    other,
                    "UnknownOperator",
                    "is not an operator; In, NotIn, Exists and DoesNotExist are",
                ));
                continue;
            }
        };
        if wants_values == values.is_empty() {
            faults.push(Violation::new(
                format!("{at}.values"),
                values.join(","),
                "SelectorValues",
                if wants_values {
                    "must list at least one value for In and NotIn"
                } else {
                    "must be empty for Exists and DoesNotExist"
                },
            ));
        }
        requirements.push(Requirement { key: expression.key.clone(), operator, values });
    }
    if faults.is_empty() { Ok(Selector { requirements }) } else { Err(faults) }
}

/// Converts onboarding rules, those for `cluster` only; all of them when `cluster` is `None`.
///
/// # Errors
/// Every fault of every rule.
pub fn rules(
    field: &str,
    from: &[NamespaceRule],
    cluster: Option<&str>,
) -> Result<Vec<Rule>, Vec<Violation>> {
    let mut rules = Vec::new();
    let mut faults = Vec::new();
    for (i, rule) in from.iter().enumerate() {
        if cluster
            .is_some_and(|c| !rule.clusters.is_empty() && !rule.clusters.iter().any(|x| x == c))
        {
            continue;
        }
        let at = format!("{field}[{i}]");
        let mut convert = |name: &str, s: &Option<LabelSelector>| {
            s.as_ref().and_then(|s| {
                selector(&format!("{at}.{name}"), s).map_err(|mut f| faults.append(&mut f)).ok()
            })
        };
        let selector = convert("selector", &rule.selector);
        let pod_selector = convert("podSelector", &rule.pod_selector);
        rules.push(Rule { names: rule.names.clone(), selector, pod_selector });
    }
    if faults.is_empty() { Ok(rules) } else { Err(faults) }
}
