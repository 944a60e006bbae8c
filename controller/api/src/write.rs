//! Create, update, delete: carried out by the API server as the caller. One call writes one object
//! in one request, so it is done whole or not at all.

use http::Method;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use slicewire_core::violation::Violation;
use tonic::Code;

use crate::Portal;
use crate::access::Deed;
use crate::fault::{Fault, Outcome};
use crate::feed::Feed;
use crate::gate::{Call, is_id};
use crate::kind::{Kind, from_kubernetes, namespace_of, to_kubernetes, wanted};
use crate::mask::Mask;
use crate::read::name_faults;
use crate::upstream::{Ask, collection, how};

/// Annotation by which a repeated request is known: a hash of who asked for what by which id.
const REQUEST_MARK: &str = "slicewire.dev/created-by-request";
/// How often an update that names no version is begun anew when somebody else writes.
const TRIES: usize = 5;

/// Makes an object.
pub(crate) async fn create<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    message: Option<K::Message>,
    validate_only: bool,
    request: &str,
) -> Outcome<K::Message> {
    let (message, namespace, name, mut faults) = whom::<K>(message);
    if !request.is_empty() && !is_id(request) {
        let what = "must be 1 to 64 letters, digits, '-', '_' or '.'";
        faults.push(Violation::new("request_id", request, "RequestId", what));
    }
    if !faults.is_empty() {
        return Err(Fault::fields(faults));
    }
    let mark = mark::<K>(call, &message, request)?;
    let annotation = mark.as_ref().map(|mark| (REQUEST_MARK, mark.clone()));
    let body = to_kubernetes::<K>(&message, &namespace, annotation).map_err(unreadable)?;
    let path = collection::<K>(&namespace);
    let ask = Ask {
        method: Method::POST,
        path: format!("{path}{}", how(validate_only)),
        body: Some(body),
    };
    match portal.upstream.ask(&call.caller, ask).await {
        Ok(made) => done(feed, made, validate_only),
        // Admission judges before the API server sees that there is one of that name: a request that
        // is repeated must not be told of that.
        Err(fault)
            if mark.is_some()
                && matches!(fault.code, Code::AlreadyExists | Code::InvalidArgument) =>
        {
            let ask = Ask { method: Method::GET, path: format!("{path}/{name}"), body: None };
            match portal.upstream.ask(&call.caller, ask).await {
                Ok(there) if marked(&there) == mark.as_deref() => done(feed, there, false),
                Ok(_) => {
                    let message = format!("there is one of the name {name} already");
                    Err(Fault::new(Code::AlreadyExists, "AlreadyExists", message))
                }
                Err(_) => Err(fault),
            }
        }
        Err(fault) => Err(fault),
    }
}

/// Writes the masked fields.
pub(crate) async fn update<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    message: Option<K::Message>,
    paths: &[String],
    validate_only: bool,
) -> Outcome<K::Message> {
    let (message, namespace, name, mut faults) = whom::<K>(message);
    let mask = Mask::parse(K::MESSAGE, paths).map_err(|f| faults.extend(f));
    let (Ok(mask), []) = (mask, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    let version = K::metadata(&message).map(|m| m.resource_version.clone()).unwrap_or_default();
    let place = Place { namespace, name, version };
    let new = wanted::<K>(&message).map_err(unreadable)?;
    rewrite(portal, feed, call, &place, validate_only, |object| {
        mask.write(&new, object.as_object_mut().unwrap_or(&mut Map::new()));
        Ok(())
    })
    .await
}

/// Which object is written.
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Only while it is of this version; empty: whatever version it is.
    pub(crate) version: String,
}

/// Writes an object as `edit` makes it out of what it is.
pub(crate) async fn rewrite<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    place: &Place,
    validate_only: bool,
    edit: impl Fn(&mut Value) -> Outcome<()>,
) -> Outcome<K::Message> {
    let Place { namespace, name, version: asked } = place;
    // Asked first, so that who may not write is told that, and not whether there is something.
    let deed = Deed::with::<K::Object>("update", namespace, name);
    portal.access.require(&call.caller, deed).await?;
    let path = format!("{}/{name}", collection::<K>(namespace));
    for attempt in 1.. {
        let ask = Ask { method: Method::GET, path: path.clone(), body: None };
        let mut object = portal.upstream.ask(&call.caller, ask).await?;
        let version = text(&object, "resourceVersion");
        if !asked.is_empty() && *asked != version {
            let message = format!(
                "somebody has written since version {asked}; it is {version} now: read it again"
            );
            return Err(Fault::new(Code::Aborted, "Conflict", message));
        }
        edit(&mut object)?;
        let ask = Ask {
            method: Method::PUT,
            path: format!("{path}{}", how(validate_only)),
            body: Some(object),
        };
        match portal.upstream.ask(&call.caller, ask).await {
            Ok(written) => return done(feed, written, validate_only),
            Err(f) if f.code == Code::Aborted && asked.is_empty() && attempt < TRIES => {}
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::unavailable("somebody else writes all the time; try again"))
}

/// Asks an object to go.
pub(crate) async fn delete<K: Kind>(
    portal: &Portal,
    feed: &Feed<K>,
    call: &Call,
    at: (&str, &str),
    version: &str,
    validate_only: bool,
) -> Outcome<()> {
    let (project, name) = at;
    let mut faults = name_faults("name", name);
    let namespace = namespace_of::<K>("project", project).map_err(|f| faults.extend(f));
    let (Ok(namespace), []) = (namespace, faults.as_slice()) else {
        return Err(Fault::fields(faults));
    };
    let mut options = json!({
        "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background",
    });
    if !version.is_empty() {
        options["preconditions"] = json!({"resourceVersion": version});
    }
    if validate_only {
        // Where there is a body, the query says nothing.
        options["dryRun"] = json!(["All"]);
    }
    let path = format!("{}/{name}", collection::<K>(&namespace));
    let ask = Ask { method: Method::DELETE, path, body: Some(options) };
    let answer = portal.upstream.ask(&call.caller, ask).await?;
    if !validate_only {
        note(feed, &answer);
    }
    Ok(())
}

/// Which object a message is, and every fault of what says so.
fn whom<K: Kind>(message: Option<K::Message>) -> (K::Message, String, String, Vec<Violation>) {
    let field = |name: &str| format!("{}.metadata.{name}", K::FIELD);
    let message = message.unwrap_or_default();
    let metadata = K::metadata(&message).cloned().unwrap_or_default();
    let mut faults = name_faults(&field("name"), &metadata.name);
    let namespace = namespace_of::<K>(&field("project"), &metadata.project);
    let namespace = namespace.map_err(|f| faults.extend(f)).unwrap_or_default();
    (message, namespace, metadata.name, faults)
}

/// What a repeated request is known by: the same person, id and wish.
fn mark<K: Kind>(call: &Call, message: &K::Message, request: &str) -> Outcome<Option<String>> {
    if request.is_empty() {
        return Ok(None);
    }
    let mut wish = wanted::<K>(message).map_err(unreadable)?;
    wish.remove("status");
    let mut hash = Sha256::new();
    for part in [&*call.caller.user, request, &Value::Object(wish).to_string()] {
        hash.update(part.as_bytes());
        hash.update([0xff]);
    }
    let hash = hash.finalize();
    Ok(Some(hash.iter().take(16).map(|b| format!("{b:02x}")).collect()))
}

fn marked(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(REQUEST_MARK)?.as_str()
}

fn text(object: &Value, field: &str) -> String {
    let metadata = object.get("metadata").and_then(|m| m.get(field));
    metadata.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What was written, and that whoever reads from now on sees it.
fn done<K: Kind>(feed: &Feed<K>, object: Value, validate_only: bool) -> Outcome<K::Message> {
    if !validate_only {
        note(feed, &object);
    }
    from_kubernetes::<K>(object).ok_or_else(|| {
        Fault::new(Code::Internal, "Unreadable", "the API server's answer is strange")
    })
}

fn note<K: Kind>(feed: &Feed<K>, object: &Value) {
    if let Ok(version) = text(object, "resourceVersion").parse() {
        feed.wrote(version);
    }
}

fn unreadable(error: serde_json::Error) -> Fault {
    Fault::new(
        Code::InvalidArgument,
        "Unreadable",
        format!("the object cannot be sent on: {error}"),
    )
}
