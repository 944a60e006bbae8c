//! Which of our zones a name is in, and what it could mean there.

/// One of our zones that names are looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone<'a> {
    /// `clusterset.local`
    ClusterSet,
    /// `slice.local`, and where names below it name a slice, which.
    Slice(Option<&'a str>),
}

impl Zone<'_> {
    /// The zone's own name: where its SOA is.
    pub(super) fn apex(self) -> &'static str {
        match self {
            Self::ClusterSet => "clusterset.local",
            Self::Slice(_) => "slice.local",
        }
    }

    /// What stands behind `svc.` in names of services.
    pub(super) fn suffix(self) -> String {
        match self {
            Self::Slice(Some(slice)) => format!("{slice}.slice.local"),
            _ => self.apex().to_owned(),
        }
    }
}

/// What a name could mean, before anybody looks whether it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// The zone itself.
    Apex,
    /// `dns-version.<zone>`
    Version,
    /// `ns.dns.<zone>`
    Server,
    /// A name that has only names below it: `svc.<zone>`, `dns.<zone>`.
    Between,
    /// `<slice>.slice.local` and `svc.<slice>.slice.local`
    SliceTop,
    /// `<namespace>.svc.<zone>`
    Namespace(&'a str),
    /// `<service>.<namespace>.svc.<zone>`, and what stands in front of it.
    Service {
        /// The namespace.
        namespace: &'a str,
        /// The service.
        service: &'a str,
        /// The labels in front of it, the first as it is written.
        front: &'a [&'a str],
    },
    /// Nothing of ours has such a name.
    Nowhere,
}

/// Finds the zone of a name, given as lower-case labels, and its place there; `None` when the name
/// is in no zone of ours.
pub(super) fn locate<'a>(labels: &'a [&'a str]) -> Option<(Zone<'a>, Place<'a>)> {
    match labels {
        [path @ .., "clusterset", "local"] => Some((Zone::ClusterSet, below(path))),
        [path @ .., "slice", "local"] => Some(match path {
            [] | [.., "svc"] | ["dns-version"] | ["dns"] | ["ns", "dns"] => {
                (Zone::Slice(None), below(path))
            }
            [slice] | ["svc", slice] => (Zone::Slice(Some(slice)), Place::SliceTop),
            [path @ .., "svc", slice] => (Zone::Slice(Some(slice)), services(path)),
            _ => (Zone::Slice(None), Place::Nowhere),
        }),
        _ => None,
    }
}

fn below<'a>(path: &'a [&'a str]) -> Place<'a> {
    match path {
        [] => Place::Apex,
        ["dns-version"] => Place::Version,
        ["ns", "dns"] => Place::Server,
        ["dns" | "svc"] => Place::Between,
        [path @ .., "svc"] => services(path),
        _ => Place::Nowhere,
    }
}

fn services<'a>(path: &'a [&'a str]) -> Place<'a> {
    match path {
        [namespace] => Place::Namespace(namespace),
        [front @ .., service, namespace] => Place::Service { namespace, service, front },
        [] => Place::Between,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_places() {
        let service = |front| Place::Service { namespace: "shop", service: "web", front };
        let slice = |name| Zone::Slice(Some(name));
        let cases = [
            ("clusterset.local", Zone::ClusterSet, Place::Apex),
            ("dns-version.clusterset.local", Zone::ClusterSet, Place::Version),
            ("svc.clusterset.local", Zone::ClusterSet, Place::Between),
            ("x.clusterset.local", Zone::ClusterSet, Place::Nowhere),
            ("web.shop.clusterset.local", Zone::ClusterSet, Place::Nowhere),
            ("shop.svc.clusterset.local", Zone::ClusterSet, Place::Namespace("shop")),
            ("web.shop.svc.clusterset.local", Zone::ClusterSet, service(&[])),
            ("slice.local", Zone::Slice(None), Place::Apex),
            ("ns.dns.slice.local", Zone::Slice(None), Place::Server),
            ("web.shop.svc.slice.local", Zone::Slice(None), service(&[])),
            ("_http._tcp.web.shop.svc.slice.local", Zone::Slice(None), service(&["_http", "_tcp"])),
            ("blue.slice.local", slice("blue"), Place::SliceTop),
            ("svc.blue.slice.local", slice("blue"), Place::SliceTop),
            ("shop.svc.blue.slice.local", slice("blue"), Place::Namespace("shop")),
            ("web.shop.svc.blue.slice.local", slice("blue"), service(&[])),
            ("web.shop.svc.dns.slice.local", slice("dns"), service(&[])),
            ("web.shop.blue.slice.local", Zone::Slice(None), Place::Nowhere),
            ("east.web.shop.svc.slice.local", Zone::Slice(None), service(&["east"])),
        ];
        for (name, zone, place) in cases {
            let labels: Vec<&str> = name.split('.').collect();
            assert_eq!(locate(&labels), Some((zone, place)), "{name}");
        }
        for other in ["local", "cluster.local", "clusterset.local.example", "xclusterset.local"] {
            let labels: Vec<&str> = other.split('.').collect();
            assert_eq!(locate(&labels), None, "{other}");
        }
        assert_eq!(locate(&[]), None);
    }
}
