//! What others' credentials may do on the hub: everything that is granted to anybody, in one place.
//!
//! Security: a worker may read what it is told and write the *status* of its objects. It can create
//! nothing, so it cannot flood the hub; it can change neither its own plan nor anything of another
//! cluster's. Who holds a token's secret may ask to join and read the answer. `docs` holds the same
//! as a table, and a test compares.

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use slicewire_api::GROUP;
use slicewire_api::labels::WORKER_ACCOUNT;

const LEASES: &str = "coordination.k8s.io";

/// What a worker's account may do in its cluster's namespace.
pub(super) fn of_worker() -> Vec<PolicyRule> {
    let kinds = [
        "clusters",
        "workerendpoints",
        "workergateways",
        "workerpods",
        "workerpolicies",
        "workerserviceexports",
        "workerslices",
        "workertraffics",
    ];
    let statuses = kinds.map(|kind| format!("{kind}/status"));
    let statuses = statuses.each_ref().map(String::as_str);
    // Nothing is reported about what others export.
    let read: Vec<&str> = kinds.into_iter().chain(["workerserviceimports"]).collect();
    vec![
        rule(GROUP, &read, &["get", "list", "watch"], &[]),
        rule(GROUP, &statuses, &["patch"], &[]),
        rule(LEASES, &["leases"], &["get", "patch"], &[WORKER_ACCOUNT]),
        rule("", &["serviceaccounts/token"], &["create"], &[WORKER_ACCOUNT]),
    ]
}

/// What the account behind a token's secret may do in the token's namespace.
pub(super) fn of_joiner() -> Vec<PolicyRule> {
    vec![rule(GROUP, &["joinrequests"], &["create", "get"], &[])]
}

fn rule(group: &str, resources: &[&str], verbs: &[&str], names: &[&str]) -> PolicyRule {
    let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(owned(resources)),
        resource_names: (!names.is_empty()).then(|| owned(names)),
        verbs: owned(verbs),
        ..PolicyRule::default()
    }
}

/// The Role of this name in the same namespace.
pub(super) fn role_ref(name: &str) -> RoleRef {
    RoleRef {
        api_group: "rbac.authorization.k8s.io".to_owned(),
        kind: "Role".to_owned(),
        name: name.to_owned(),
    }
}

/// An account.
pub(super) fn account_of(namespace: &str, name: &str) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: name.to_owned(),
        namespace: Some(namespace.to_owned()),
        ..Subject::default()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use super::*;

    #[test]
    fn nobody_creates_anything_but_requests_and_their_own_tokens() {
        for rule in of_worker() {
            let creates = rule.verbs.iter().any(|v| v == "create" || v == "*");
            let own_token = rule.resources == Some(vec!["serviceaccounts/token".to_owned()])
                && rule.resource_names == Some(vec![WORKER_ACCOUNT.to_owned()]);
            assert!(!creates || own_token, "{rule:?}");
        }
        for rule in of_joiner() {
            assert_eq!(rule.resources, Some(vec!["joinrequests".to_owned()]));
        }
    }

    #[test]
    fn the_workers_rights_open_nothing_but_statuses_for_writing() {
        for rule in of_worker() {
            let writes = rule.verbs.iter().any(|v| !["get", "list", "watch"].contains(&v.as_str()));
            let ours = rule.api_groups == Some(vec![GROUP.to_owned()]);
            let statuses = rule.resources.unwrap().iter().all(|r| r.ends_with("/status"));
            assert!(!(writes && ours) || statuses);
        }
    }

    #[test]
    fn deletion_and_wildcards_are_granted_to_nobody() {
        for rule in of_worker().into_iter().chain(of_joiner()) {
            let resources = rule.resources.unwrap();
            for word in rule.verbs.iter().chain(&resources).chain(rule.api_groups.iter().flatten())
            {
                assert!(!word.contains('*') && !word.starts_with("delete"), "{word}");
            }
        }
    }

    fn table(rules: &[PolicyRule]) -> String {
        let mut text =
            String::from("| API group | resource | only the object | verbs |\n|---|---|---|---|\n");
        for rule in rules {
            let group = rule.api_groups.as_ref().unwrap()[0].clone();
            let group = if group.is_empty() { "core".to_owned() } else { group };
            let names = rule.resource_names.clone().unwrap_or_default().join(", ");
            for resource in rule.resources.as_ref().unwrap() {
                let verbs = rule.verbs.join(", ");
                writeln!(text, "| {group} | {resource} | {names} | {verbs} |").unwrap();
            }
        }
        text
    }

    fn page() -> String {
        format!(
            "# What a member's credentials may do on the hub\n\n\
             This page is generated from the rules that the hub controller grants\n\
             (`controller/src/hub/rights.rs`); a test fails when it is not current, and the story\n\
             `permissions` tries every verb of it, and everything that is not in it, with a real\n\
             credential against a real API server. To write it anew:\n\
             `WRITE_DOCS=1 cargo test -p slicewire-controller rights`.\n\n\
             ## A worker's credential\n\n\
             Tokens of the account `{WORKER_ACCOUNT}` in the cluster's own namespace,\n\
             `slicewire-<project>--<cluster>`; they open that namespace only. Whatever is not listed\n\
             is refused: other namespaces, other kinds, creating and deleting anything. What\n\
             Kubernetes grants to everybody is left: discovery, and asking about oneself\n\
             (`selfsubjectaccessreviews` and the like).\n\n{}\n\
             ## A token's secret\n\n\
             A token of the account `joiner` in the token's own namespace,\n\
             `slicewire-<project>--join--<token>`; it opens that namespace only. Without `list` and\n\
             `watch`, who holds it sees only requests whose names it knows, and the credential in an\n\
             answer can be read only with the key that the request's maker kept.\n\n{}",
            table(&of_worker()),
            table(&of_joiner()),
        )
    }

    #[test]
    fn the_documented_rights_are_those_granted() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/member-permissions.md");
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == page(), "{} is not current; its head says how", path.display());
    }

    /// Every `name` of a column "tried by" is a test or a story of this repository.
    #[test]
    fn what_the_threat_model_names_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let page = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
        let mut source = String::new();
        let folders = [
            "controller/src",
            "controller/api/src",
            "netop-daemon/kernel/tests",
            "netop-daemon/src",
            "proto/api/src",
            "proto/core/src",
            "proto/rpc/src",
            "proto/ticket/src",
            "router-sidecar/tests",
            "slice-gateway/src",
            "slicectl/src",
            "tests/stories",
        ];
        for folder in folders {
            collect(&root.join(folder), &mut source);
        }
        let mut named = 0;
        for line in page.lines().filter(|l| l.starts_with("| ") && l.contains('`')) {
            let tried = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            for name in tried.split('`').skip(1).step_by(2) {
                let test = source.contains(&format!("fn {name}("));
                let story = source.contains(&format!("Story {{ name: \"{name}\""));
                assert!(test || story, "there is no test {name}");
                named += 1;
            }
        }
        assert!(named > 30, "the table was not read: {named}");
    }

    fn collect(folder: &Path, source: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, source);
            } else if path.extension().is_some_and(|e| e == "rs") {
                source.push_str(&std::fs::read_to_string(&path).unwrap());
            }
        }
    }
}
