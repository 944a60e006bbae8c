//! From a kind to its service: the same methods for each.

/// Implements [`crate::kind::Kind`] and the service of each kind, and makes the set of their feeds.
macro_rules! serve {
    ($($feed:ident: $kind:ident {
        object: $object:ty, field: $field:ident, in_project: $in_project:tt,
        service: $module:ident::{$service:ident, $server:ident}, many: $many:ident,
        create: $create:ident($create_request:ident) -> $create_response:ident $(by $create_by:path)?,
        get: $get:ident($get_request:ident) -> $get_response:ident,
        list: $list:ident($list_request:ident) -> $list_response:ident,
        $(update: $update:ident($update_request:ident) -> $update_response:ident,)?
        delete: $delete:ident($delete_request:ident) -> $delete_response:ident,
        watch: $watch:ident($watch_request:ident) -> $watch_response:ident as $stream:ident,
        $(also: $also:ident($also_request:ident) -> $also_response:ident by $also_by:path,)?
    })+) => {
        use std::sync::Arc;

        use futures::StreamExt;
        use slicewire_rpc::hub::v1alpha1 as rpc;
        use tonic::service::RoutesBuilder;
        use tonic::{Request, Response, Status};

        use crate::feed::Feed;
        use crate::kind::Kind;
        use crate::read::ListArgs;
        use crate::serve::{create_by, project_in};
        use crate::watching::WatchArgs;
        use crate::{Portal, Streamed, read, watching, write};

        /// The feeds of every kind.
        #[allow(missing_docs, reason = "each is named as its kind")]
        pub struct Feeds {
            $(pub $feed: Arc<Feed<$kind>>,)+
        }

        impl Feeds {
            /// Empty feeds; `history` is a number no other process has.
            pub fn new(history: u64) -> Self {
                Self { $($feed: Arc::new(Feed::new(history)),)+ }
            }

            /// Whether every first list has come in.
            pub fn are_synced(&self) -> bool {
                true $(&& self.$feed.is_synced())+
            }
        }

        /// Adds the services of every kind.
        pub(crate) fn add_services(
            portal: &Arc<Portal>,
            largest_message: usize,
            to: &mut RoutesBuilder,
        ) {
            $(to.add_service(
                rpc::$module::$server::new(Served(portal.clone()))
                    .max_decoding_message_size(largest_message),
            );)+
        }

        /// Implements the services.
        struct Served(Arc<Portal>);

        $(
        #[doc = concat!("The kind ", stringify!($kind), " of the API.")]
        pub struct $kind;

        impl Kind for $kind {
            type Object = $object;
            type Message = rpc::$kind;
            const MESSAGE: &'static str = concat!("slicewire.hub.v1alpha1.", stringify!($kind));
            const FIELD: &'static str = stringify!($field);
            const IN_PROJECT: bool = $in_project;

            fn metadata(message: &rpc::$kind) -> Option<&rpc::Metadata> {
                message.metadata.as_ref()
            }
        }

        #[tonic::async_trait]
        impl rpc::$module::$service for Served {
            async fn $create(
                &self,
                request: Request<rpc::$create_request>,
            ) -> Result<Response<rpc::$create_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$create_request| async move {
                    create_by!(portal, call, r, $feed, $field, $create_response $(, $create_by)?)
                };
                self.0.clone().answer(stringify!($create), request, work).await
            }

            async fn $get(
                &self,
                request: Request<rpc::$get_request>,
            ) -> Result<Response<rpc::$get_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$get_request| async move {
                    let (feed, project) = (&*portal.feeds.$feed, project_in!(r, $in_project));
                    let found = read::get(&portal, feed, &call, &project, &r.name).await?;
                    Ok(rpc::$get_response { $field: Some(found) })
                };
                self.0.clone().answer(stringify!($get), request, work).await
            }

            async fn $list(
                &self,
                request: Request<rpc::$list_request>,
            ) -> Result<Response<rpc::$list_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$list_request| async move {
                    let project = project_in!(r, $in_project);
                    let (size, token, filter) = (r.page_size, r.page_token, r.filter);
                    let args = ListArgs { project, size, token, filter };
                    let feed = &*portal.feeds.$feed;
                    let ($many, next_page_token) = read::list(&portal, feed, &call, args).await?;
                    Ok(rpc::$list_response { $many, next_page_token })
                };
                self.0.clone().answer(stringify!($list), request, work).await
            }

            $(async fn $update(
                &self,
                request: Request<rpc::$update_request>,
            ) -> Result<Response<rpc::$update_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$update_request| async move {
                    let mask = r.update_mask.unwrap_or_default().paths;
                    let (feed, dry) = (&*portal.feeds.$feed, r.validate_only);
                    let now = write::update(&portal, feed, &call, r.$field, &mask, dry).await?;
                    Ok(rpc::$update_response { $field: Some(now) })
                };
                self.0.clone().answer(stringify!($update), request, work).await
            })?

            async fn $delete(
                &self,
                request: Request<rpc::$delete_request>,
            ) -> Result<Response<rpc::$delete_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$delete_request| async move {
                    let project = project_in!(r, $in_project);
                    let (at, version) = ((&*project, &*r.name), &*r.resource_version);
                    let (feed, dry) = (&*portal.feeds.$feed, r.validate_only);
                    write::delete(&portal, feed, &call, at, version, dry).await?;
                    Ok(rpc::$delete_response {})
                };
                self.0.clone().answer(stringify!($delete), request, work).await
            }

            type $stream = Streamed<rpc::$watch_response>;

            async fn $watch(
                &self,
                request: Request<rpc::$watch_request>,
            ) -> Result<Response<Self::$stream>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$watch_request| async move {
                    let (filter, token) = (r.filter, r.resume_token);
                    let project = project_in!(r, $in_project);
                    let args = WatchArgs { project, filter, token };
                    let feed = portal.feeds.$feed.clone();
                    let told = watching::watch(portal, feed, call, args).await?;
                    Ok(Box::pin(told.map(|told| told.map(|told| rpc::$watch_response {
                        r#type: told.event.into(),
                        $field: told.message,
                        resume_token: told.token,
                        notice: told.notice.to_owned(),
                    }))) as Self::$stream)
                };
                self.0.clone().answer(stringify!($watch), request, work).await
            }

            $(async fn $also(
                &self,
                request: Request<rpc::$also_request>,
            ) -> Result<Response<rpc::$also_response>, Status> {
                let work = |portal: Arc<Portal>, call, r: rpc::$also_request| async move {
                    $also_by(&portal, &call, r).await
                };
                self.0.clone().answer(stringify!($also), request, work).await
            })?
        }
        )+
    };
}

/// How an object is made: as all are, or by a function of the kind's own.
macro_rules! create_by {
    ($portal:ident, $call:ident, $r:ident, $feed:ident, $field:ident, $response:ident) => {{
        let (feed, dry) = (&*$portal.feeds.$feed, $r.validate_only);
        let made = write::create(&$portal, feed, &$call, $r.$field, dry, &$r.request_id).await?;
        Ok(rpc::$response { $field: Some(made) })
    }};
    ($portal:ident, $call:ident, $r:ident, $feed:ident, $field:ident, $response:ident, $by:path) => {
        $by(&$portal, &$call, $r).await
    };
}

/// The project a request names; nothing for kinds that are in none.
macro_rules! project_in {
    ($request:ident, true) => {
        $request.project
    };
    ($request:ident, false) => {
        String::new()
    };
}

pub(crate) use {create_by, project_in, serve};
