//! What has to be done for a project.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use slicewire_api::labels::{HUB_FINALIZER, HUB_MANAGER, MANAGED_BY, PROJECT};
use slicewire_core::name::{ProjectName, project_namespace};
use slicewire_core::violation::Violation;

use super::observe::Observed;
use crate::kubernetes::change::{Change, Steps};

/// A project's next steps, and what still stands in the way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Steps,
    /// What a deletion waits for.
    pub(super) waiting: Option<String>,
}

/// Decides.
pub(super) fn plan(observed: &Observed, validated: &Result<ProjectName, Vec<Violation>>) -> Plan {
    if observed.project.metadata.deletion_timestamp.is_some() {
        return leave(observed);
    }
    let Ok(name) = validated else { return Plan { steps: Vec::new(), waiting: None } };
    let hold = Change::hold(&*observed.project, HUB_FINALIZER);
    let wanted = namespace(name);
    let made = match &observed.namespace {
        // A namespace of that name that is not ours must not become ours, or it would go with
        // the project.
        None => Some(Change::create(&wanted)),
        Some(there) => Change::converge(&wanted, Some(&**there)),
    };
    Plan { steps: vec![hold.into_iter().collect(), made.into_iter().collect()], waiting: None }
}

fn namespace(project: &ProjectName) -> Namespace {
    let labels = BTreeMap::from([
        (MANAGED_BY.to_owned(), HUB_MANAGER.to_owned()),
        (PROJECT.to_owned(), project.to_string()),
    ]);
    Namespace {
        metadata: ObjectMeta {
            name: Some(project_namespace(project)),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// Slices first, then tokens and clusters, then the namespace.
fn leave(observed: &Observed) -> Plan {
    let waiting = |what: &str, names: Vec<String>| {
        Some(format!("waiting for {what} {} to be gone", names.join(", ")))
    };
    if !observed.configs.is_empty() {
        let names = observed.configs.iter().map(|c| c.name_any()).collect();
        let deletions = observed.configs.iter().filter_map(|c| Change::delete(&**c)).collect();
        return Plan { steps: vec![deletions], waiting: waiting("slices", names) };
    }
    if !observed.tokens.is_empty() {
        let names = observed.tokens.iter().map(|c| c.name_any()).collect();
        let deletions = observed.tokens.iter().filter_map(|c| Change::delete(&**c)).collect();
        return Plan { steps: vec![deletions], waiting: waiting("tokens", names) };
    }
    if !observed.clusters.is_empty() {
        let names = observed.clusters.iter().map(|c| c.name_any()).collect();
        let deletions = observed.clusters.iter().filter_map(|c| Change::delete(&**c)).collect();
        return Plan { steps: vec![deletions], waiting: waiting("clusters", names) };
    }
    if let Some(namespace) = &observed.namespace {
        let deletion = Change::delete(&**namespace).into_iter().collect();
        return Plan {
            steps: vec![deletion],
            waiting: waiting("namespace", vec![namespace.name_any()]),
        };
    }
    let release = Change::release(&*observed.project, HUB_FINALIZER).into_iter().collect();
    Plan { steps: vec![release], waiting: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use slicewire_api::{Project, ProjectSpec, SliceConfig, SliceConfigSpec};

    use super::*;
    use crate::hub::project::validate::validate;
    use crate::kubernetes::change::Verb;

    fn observed(name: &str) -> Observed {
        let project = Arc::new(Project::new(name, ProjectSpec::default()));
        Observed { project, namespace: None, clusters: vec![], configs: vec![], tokens: vec![] }
    }

    fn changes(observed: &Observed) -> Vec<Change> {
        plan(observed, &validate(observed)).steps.concat()
    }

    #[test]
    fn a_namespace_that_is_not_known_as_ours_is_created_and_never_taken_over() {
        let all = changes(&observed("demo"));
        assert!(matches!(all[1].verb, Verb::Create(_)));
        assert_eq!(all[1].name, "slicewire-demo");
    }

    #[test]
    fn a_settled_project_needs_nothing() {
        let mut observed = observed("demo");
        let mut project = (*observed.project).clone();
        project.metadata.finalizers = Some(vec![HUB_FINALIZER.into()]);
        observed.project = Arc::new(project);
        observed.namespace = Some(Arc::new(namespace(&ProjectName::parse("demo").unwrap())));
        assert_eq!(changes(&observed), []);
    }

    #[test]
    fn the_systems_own_namespace_is_not_a_project() {
        assert_eq!(validate(&observed("system")).unwrap_err()[0].reason, "NameReserved");
        assert_eq!(changes(&observed("system")), []);
    }

    #[test]
    fn a_deleted_project_takes_its_slices_along_first() {
        let mut observed = observed("demo");
        let mut project = (*observed.project).clone();
        project.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ));
        project.metadata.finalizers = Some(vec![HUB_FINALIZER.into()]);
        observed.project = Arc::new(project);
        observed.configs.push(Arc::new(SliceConfig::new("blue", SliceConfigSpec::default())));
        let all = changes(&observed);
        assert_eq!((all.len(), all[0].name.as_str()), (1, "blue"));
        observed.configs.clear();
        assert!(matches!(changes(&observed)[0].verb, Verb::Merge(_)));
    }
}
