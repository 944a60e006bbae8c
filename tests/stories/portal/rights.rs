//! What kubectl may not do, the API may not do; and what it may, it may.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use slicewire_rpc::hub::v1alpha1 as rpc;
use slicewire_tests::member::Stolen;
use slicewire_tests::portal::{Portal, with_token};
use slicewire_tests::world::World;
use tonic::{Code, Status};

/// A kind: its resource, an object that is there, and whether it lives in projects.
const KINDS: [(&str, &str, bool); 5] = [
    ("projects", "demo", false),
    ("clusters", "east", true),
    ("sliceconfigs", "blue", true),
    ("slicepolicies", "tried", true),
    ("jointokens", "tried", true),
];
const VERBS: [&str; 6] = ["get", "list", "watch", "create", "update", "delete"];

/// Tries every method of every kind in several projects as several people, and the same through the
/// API server with the same token.
pub(crate) fn rights(world: &mut World) -> Result<String> {
    world.apply("hub", TOKEN)?;
    world.apply("hub", POLICY)?;
    let portal = world.portal()?;
    let tried = matrix(world, &portal);
    world.k("hub", "-n slicewire-demo delete jointoken/tried slicepolicy/tried")?;
    world.remove_portal();
    let (allowed, tried) = tried?;
    Ok(format!(
        "{tried} calls by 10 people decided as Kubernetes decides; {allowed} of them allowed"
    ))
}

const TOKEN: &str = r#"{"apiVersion": "slicewire.dev/v1alpha1", "kind": "JoinToken",
    "metadata": {"name": "tried", "namespace": "slicewire-demo"}, "spec": {}}"#;

/// Only counts, and that of a namespace without pods.
const POLICY: &str = r#"{"apiVersion": "slicewire.dev/v1alpha1", "kind": "SlicePolicy",
    "metadata": {"name": "tried", "namespace": "slicewire-demo"},
    "spec": {"slice": "blue", "namespace": "tried", "enforce": "audit", "ingress": []}}"#;

/// People: their name, whether they may it everywhere, and what.
fn people() -> Vec<(&'static str, bool, Value)> {
    let may = |resources: &[&str], verbs: &[&str]| json!([{"apiGroups": ["slicewire.dev"], "resources": resources, "verbs": verbs}]);
    let named = json!([{"apiGroups": ["slicewire.dev"], "resources": ["sliceconfigs", "clusters"],
        "resourceNames": ["blue"], "verbs": ["get", "update", "delete"]}]);
    vec![
        ("nobody", false, json!([])),
        ("viewer", false, may(&["*"], &["get", "list", "watch"])),
        ("lister", false, may(&["sliceconfigs", "clusters"], &["list"])),
        ("watcher", false, may(&["sliceconfigs"], &["watch"])),
        ("named", false, named),
        ("maker", false, may(&["sliceconfigs", "jointokens"], &["create"])),
        ("blind-writer", false, may(&["sliceconfigs", "clusters"], &["update"])),
        ("editor", false, may(&["sliceconfigs"], &["get", "update"])),
        ("auditor", true, may(&["*"], &["get", "list", "watch"])),
        ("admin", true, may(&["*"], &["*"])),
    ]
}

/// How many calls were allowed, and how many tried.
fn matrix(world: &World, portal: &Portal) -> Result<(usize, usize)> {
    let (mut allowed, mut tried, mut wrong) = (0, 0, Vec::new());
    for (person, everywhere, rules) in people() {
        let token = world.caller(person, everywhere, &rules)?;
        let kubectl = world.stolen(&token)?;
        for (resource, name, in_project) in KINDS {
            let projects = if in_project { &["demo", "other", ""][..] } else { &[""] };
            for project in projects {
                // Only lists and watches are of all projects.
                let whole = in_project && project.is_empty();
                for verb in VERBS.iter().filter(|v| !whole || ["list", "watch"].contains(*v)) {
                    if (resource, *verb) == ("jointokens", "update") {
                        continue;
                    }
                    let expected = may(&kubectl, resource, project, verb, name)?;
                    let outcome = portal
                        .runtime
                        .block_on(call(portal, &token, resource, project, verb, name));
                    let said = outcome.map_or_else(|s: Status| s.code(), |()| Code::Ok);
                    let undecided = [Code::Unauthenticated, Code::Unavailable, Code::Internal];
                    ensure!(!undecided.contains(&said), "{person} {verb} {resource}: {said:?}");
                    tried += 1;
                    allowed += usize::from(expected);
                    if expected == (said == Code::PermissionDenied) {
                        wrong.push(format!("{person} {verb} {resource} {project:?}: kubectl {expected}, API {said:?}"));
                    }
                }
            }
        }
    }
    ensure!(wrong.is_empty(), "decided otherwise than Kubernetes: {wrong:#?}");
    ensure!(allowed > 0 && allowed < tried, "{allowed} of {tried} is no test");
    Ok((allowed, tried))
}

/// Whether kubectl may do what the method does, tried without changing anything.
fn may(kubectl: &Stolen, resource: &str, project: &str, verb: &str, name: &str) -> Result<bool> {
    let place = match project {
        "" => String::new(),
        project => format!("/namespaces/slicewire-{project}"),
    };
    let all = format!("/apis/slicewire.dev/v1alpha1{place}/{resource}");
    let one = format!("{all}/{name}");
    let (watch, dry) = (format!("{all}?watch=1&timeoutSeconds=1"), "?dryRun=All");
    let needs: Vec<(&str, String)> = match verb {
        "get" => vec![("GET", one)],
        "list" => vec![("GET", all)],
        // What a watch tells first is a list.
        "watch" => vec![("GET", all), ("GET", watch)],
        "create" => vec![("POST", all + dry)],
        // Fields that are not written are kept, so they are read.
        "update" => vec![("GET", one.clone()), ("PUT", one + dry)],
        _ => vec![("DELETE", one + dry)],
    };
    for (method, path) in needs {
        let body = ["POST", "PUT"].contains(&method).then(|| json!({}));
        if kubectl.ask(method, &path, body.as_ref())?.is_denied() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Calls the methods of one kind.
macro_rules! methods {
    ($channel:expr, $token:expr, $project:expr, $name:expr, $verb:expr,
     $module:ident::$client:ident, $kind:ident, $field:ident,
     $get:ident $get_request:expr, $list:ident $list_request:expr, $watch:ident $watch_request:expr,
     $create:ident $create_request:ident, [$($update:ident $update_request:ident)?],
     $delete:ident $delete_request:expr) => {{
        let mut client = rpc::$module::$client::new($channel);
        let metadata = rpc::Metadata { project: $project, name: $name, ..Default::default() };
        let $field = Some(rpc::$kind { metadata: Some(metadata), ..Default::default() });
        match $verb {
            "get" => client.$get(with_token($token, $get_request)).await.map(drop),
            "list" => client.$list(with_token($token, $list_request)).await.map(drop),
            "watch" => match client.$watch(with_token($token, $watch_request)).await {
                Ok(stream) => stream.into_inner().message().await.map(drop),
                Err(status) => Err(status),
            },
            "create" => {
                let request = rpc::$create_request { $field, validate_only: true, ..Default::default() };
                client.$create(with_token($token, request)).await.map(drop)
            }
            $("update" => {
                let request = rpc::$update_request { $field, validate_only: true, ..Default::default() };
                client.$update(with_token($token, request)).await.map(drop)
            })?
            _ => client.$delete(with_token($token, $delete_request)).await.map(drop),
        }
    }};
}

async fn call(
    portal: &Portal,
    token: &str,
    resource: &str,
    project: &str,
    verb: &str,
    name: &str,
) -> Result<(), Status> {
    let channel = portal.channel();
    let (project, name) = (project.to_owned(), name.to_owned());
    let validate_only = true;
    macro_rules! of {
        ($request:ident { $($field:ident),* }) => {
            rpc::$request { $($field: $field.clone(),)* ..Default::default() }
        };
    }
    match resource {
        "projects" => methods!(channel, token, project.clone(), name.clone(), verb,
            project_service_client::ProjectServiceClient, Project, project,
            get_project rpc::GetProjectRequest { name }, list_projects of!(ListProjectsRequest {}),
            watch_projects of!(WatchProjectsRequest {}), create_project CreateProjectRequest,
            [update_project UpdateProjectRequest],
            delete_project of!(DeleteProjectRequest { name, validate_only })),
        "clusters" => methods!(channel, token, project.clone(), name.clone(), verb,
            cluster_service_client::ClusterServiceClient, Cluster, cluster,
            get_cluster rpc::GetClusterRequest { project, name },
            list_clusters of!(ListClustersRequest { project }),
            watch_clusters of!(WatchClustersRequest { project }), create_cluster CreateClusterRequest,
            [update_cluster UpdateClusterRequest],
            delete_cluster of!(DeleteClusterRequest { project, name, validate_only })),
        "sliceconfigs" => methods!(channel, token, project.clone(), name.clone(), verb,
            slice_service_client::SliceServiceClient, Slice, slice,
            get_slice rpc::GetSliceRequest { project, name },
            list_slices of!(ListSlicesRequest { project }),
            watch_slices of!(WatchSlicesRequest { project }), create_slice CreateSliceRequest,
            [update_slice UpdateSliceRequest],
            delete_slice of!(DeleteSliceRequest { project, name, validate_only })),
        "slicepolicies" => methods!(channel, token, project.clone(), name.clone(), verb,
            slice_policy_service_client::SlicePolicyServiceClient, SlicePolicy, slice_policy,
            get_slice_policy rpc::GetSlicePolicyRequest { project, name },
            list_slice_policies of!(ListSlicePoliciesRequest { project }),
            watch_slice_policies of!(WatchSlicePoliciesRequest { project }),
            create_slice_policy CreateSlicePolicyRequest,
            [update_slice_policy UpdateSlicePolicyRequest],
            delete_slice_policy of!(DeleteSlicePolicyRequest { project, name, validate_only })),
        _ => methods!(channel, token, project.clone(), name.clone(), verb,
            join_token_service_client::JoinTokenServiceClient, JoinToken, join_token,
            get_join_token rpc::GetJoinTokenRequest { project, name },
            list_join_tokens of!(ListJoinTokensRequest { project }),
            watch_join_tokens of!(WatchJoinTokensRequest { project }),
            create_join_token CreateJoinTokenRequest, [],
            delete_join_token of!(DeleteJoinTokenRequest { project, name, validate_only })),
    }
}
