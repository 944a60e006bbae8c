//! What a ServiceExport is told: the standard's conditions `Valid`, `Ready` and `Conflict`.

use super::merge::Conflict;
use super::model::Export;
use crate::name::ClusterName;
use crate::violation::{Violation, summary};

/// Most bytes of a message: conditions take no more than 32,768.
const MAX_MESSAGE: usize = 8192;

/// A condition's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody can say yet.
    Unknown,
}

/// A condition without its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// `type`.
    pub kind: &'static str,
    /// `status`.
    pub status: Status,
    /// `reason`; several ones with commas between them where the standard has it so.
    pub reason: String,
    /// `message`: what is, and what to do next.
    pub message: String,
}

/// How far an export that is valid has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// Its namespace belongs to no slice in this cluster.
    NoSlice,
    /// The hub has not taken it yet.
    Pending,
    /// The hub could not take it.
    Refused {
        /// Why, and what to do next.
        why: &'a str,
    },
    /// The hub has taken it.
    Exported {
        /// Endpoints of this cluster that are ready.
        ready: usize,
        /// All endpoints of this cluster.
        all: usize,
    },
}

/// The three conditions of an export, in the order of their types.
///
/// `conflicts` are those of the whole service, and `None` while nobody has compared it.
pub fn judge(
    cluster: &ClusterName,
    export: Result<&Export, &[Violation]>,
    progress: Progress<'_>,
    conflicts: Option<&[Conflict]>,
) -> [Judgement; 3] {
    [
        conflict(cluster, conflicts.filter(|_| export.is_ok())),
        ready(export.is_ok(), progress),
        valid(export),
    ]
}

fn judgement(kind: &'static str, status: Status, reason: &str, message: &str) -> Judgement {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = message.get(..end).unwrap_or_default().to_owned();
    Judgement { kind, status, reason: reason.to_owned(), message }
}

fn valid(export: Result<&Export, &[Violation]>) -> Judgement {
    match export {
        Ok(Export { no_weight: Some(fault), .. }) => {
            let message = format!("the Service can be exported, with the slice's weight: {fault}");
            judgement("Valid", Status::True, fault.reason, &message)
        }
        Ok(Export { weight: None, .. }) => {
            judgement("Valid", Status::True, "Valid", "the Service can be exported")
        }
        Ok(Export { weight: Some(0), .. }) => {
            let message = "the Service can be exported; with weight 0 its endpoints of this cluster get \
                           no new connections";
            judgement("Valid", Status::True, "Valid", message)
        }
        Ok(Export { weight: Some(weight), .. }) => {
            let message = format!(
                "the Service can be exported; each of its endpoints of this cluster counts {weight}"
            );
            judgement("Valid", Status::True, "Valid", &message)
        }
        Err(faults) => {
            let reason = faults.first().map_or("Invalid", |f| f.reason);
            judgement("Valid", Status::False, reason, &summary(faults))
        }
    }
}

fn ready(valid: bool, progress: Progress<'_>) -> Judgement {
    let told = |status, reason: &str, message: &str| judgement("Ready", status, reason, message);
    if !valid {
        let message = "it is not exported; condition Valid says what to mend";
        return told(Status::False, "Failed", message);
    }
    match progress {
        Progress::NoSlice => told(
            Status::False,
            "NamespaceNotInSlice",
            "the namespace belongs to no slice in this cluster; put it into one with the label \
             slicewire.dev/slice or the slice's spec.namespaces",
        ),
        Progress::Pending => told(
            Status::False,
            "Pending",
            "the hub has not taken the export yet; if this lasts, look at the Cluster's condition \
             Connected",
        ),
        Progress::Refused { why } => told(Status::False, "Failed", why),
        Progress::Exported { all: 0, .. } => told(
            Status::False,
            "NoEndpoints",
            "it is exported, but no pod with an address on the slice is behind the Service; compare \
             its selector with the pods' labels, and see whether the pods are on the slice",
        ),
        Progress::Exported { ready: 0, all } => told(
            Status::False,
            "NoReadyEndpoints",
            &format!(
                "it is exported, but none of its {all} endpoints in this cluster is ready; look at \
                 the pods' readiness probes"
            ),
        ),
        Progress::Exported { ready, all } => told(
            Status::True,
            "Exported",
            &format!("{ready} of {all} endpoints of this cluster are ready"),
        ),
    }
}

fn conflict(cluster: &ClusterName, conflicts: Option<&[Conflict]>) -> Judgement {
    match conflicts {
        None => {
            let message = "it has not been compared with the other clusters' exports yet";
            judgement("Conflict", Status::Unknown, "Pending", message)
        }
        Some([]) => {
            let message = "the clusters that export this service agree about it";
            judgement("Conflict", Status::False, "NoConflicts", message)
        }
        Some(conflicts) => {
            let reasons: Vec<&str> = conflicts.iter().map(|c| c.reason.as_str()).collect();
            let messages: Vec<String> = conflicts
                .iter()
                .map(|c| {
                    let whose =
                        if c.clusters.contains(cluster) { "this export differs: " } else { "" };
                    format!("{whose}{}", c.message)
                })
                .collect();
            judgement("Conflict", Status::True, &reasons.join(","), &messages.join(". "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::merge::ConflictReason;
    use super::super::spec::{RawExport, RawPort, RawService, parse};
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        ClusterName::parse(name).unwrap()
    }

    fn export() -> Export {
        let ports = vec![RawPort { port: 80, ..RawPort::default() }];
        let service = Some(RawService { ports, ..RawService::default() });
        parse(&RawExport { service, ..RawExport::default() }).unwrap()
    }

    fn told(judgements: &[Judgement]) -> Vec<(&str, Status, &str)> {
        judgements.iter().map(|j| (j.kind, j.status, j.reason.as_str())).collect()
    }

    #[test]
    fn an_invalid_export_is_not_ready_and_nobody_compares_it() {
        let faults = parse(&RawExport::default()).unwrap_err();
        let progress = Progress::Exported { ready: 1, all: 1 };
        let got = judge(&cluster("east"), Err(&faults), progress, Some(&[]));
        assert_eq!(
            told(&got),
            [
                ("Conflict", Status::Unknown, "Pending"),
                ("Ready", Status::False, "Failed"),
                ("Valid", Status::False, "NoService"),
            ]
        );
        assert!(got[2].message.contains("create it"), "{}", got[2].message);
    }

    #[test]
    fn every_step_of_a_valid_export_has_a_reason_and_a_next_step() {
        let export = export();
        let cases = [
            (Progress::NoSlice, "NamespaceNotInSlice", "slicewire.dev/slice"),
            (Progress::Pending, "Pending", "Connected"),
            (Progress::Refused { why: "no room" }, "Failed", "no room"),
            (Progress::Exported { ready: 0, all: 0 }, "NoEndpoints", "selector"),
            (Progress::Exported { ready: 0, all: 3 }, "NoReadyEndpoints", "probes"),
            (Progress::Exported { ready: 2, all: 3 }, "Exported", "2 of 3"),
        ];
        for (progress, reason, word) in cases {
            let [_, ready, valid] = judge(&cluster("east"), Ok(&export), progress, Some(&[]));
            assert_eq!(valid.status, Status::True);
            assert_eq!(
                (ready.reason.as_str(), ready.status == Status::True),
                (reason, reason == "Exported")
            );
            assert!(ready.message.contains(word), "{}", ready.message);
        }
    }

    #[test]
    fn reasons_of_several_conflicts_are_joined_and_who_differs_is_told_so() {
        let conflict = |reason| Conflict {
            reason,
            clusters: BTreeSet::from([cluster("west")]),
            message: "m".repeat(MAX_MESSAGE),
        };
        let conflicts = [conflict(ConflictReason::Port), conflict(ConflictReason::Type)];
        let export = export();
        for (name, differs) in [("east", false), ("west", true)] {
            let progress = Progress::Pending;
            let [got, ..] = judge(&cluster(name), Ok(&export), progress, Some(&conflicts));
            assert_eq!(got.reason, "PortConflict,TypeConflict");
            assert_eq!(got.message.starts_with("this export differs"), differs);
            assert_eq!(got.message.len(), MAX_MESSAGE);
        }
    }
}
