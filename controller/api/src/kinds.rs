//! Every kind of the API. A kind is added here, and its .proto file and its words
//! (`proto/rpc/src/hub/words.rs`) beside it.

use slicewire_api as kubernetes;

use crate::serve::serve;

serve! {
    projects: Project {
        object: kubernetes::Project, field: project, in_project: false,
        service: project_service_server::{ProjectService, ProjectServiceServer}, many: projects,
        create: create_project(CreateProjectRequest) -> CreateProjectResponse,
        get: get_project(GetProjectRequest) -> GetProjectResponse,
        list: list_projects(ListProjectsRequest) -> ListProjectsResponse,
        update: update_project(UpdateProjectRequest) -> UpdateProjectResponse,
        delete: delete_project(DeleteProjectRequest) -> DeleteProjectResponse,
        watch: watch_projects(WatchProjectsRequest) -> WatchProjectsResponse as WatchProjectsStream,
    }
    clusters: Cluster {
        object: kubernetes::Cluster, field: cluster, in_project: true,
        service: cluster_service_server::{ClusterService, ClusterServiceServer}, many: clusters,
        create: create_cluster(CreateClusterRequest) -> CreateClusterResponse,
        get: get_cluster(GetClusterRequest) -> GetClusterResponse,
        list: list_clusters(ListClustersRequest) -> ListClustersResponse,
        update: update_cluster(UpdateClusterRequest) -> UpdateClusterResponse,
        delete: delete_cluster(DeleteClusterRequest) -> DeleteClusterResponse,
        watch: watch_clusters(WatchClustersRequest) -> WatchClustersResponse as WatchClustersStream,
    }
    slices: Slice {
        object: kubernetes::SliceConfig, field: slice, in_project: true,
        service: slice_service_server::{SliceService, SliceServiceServer}, many: slices,
        create: create_slice(CreateSliceRequest) -> CreateSliceResponse,
        get: get_slice(GetSliceRequest) -> GetSliceResponse,
        list: list_slices(ListSlicesRequest) -> ListSlicesResponse,
        update: update_slice(UpdateSliceRequest) -> UpdateSliceResponse,
        delete: delete_slice(DeleteSliceRequest) -> DeleteSliceResponse,
        watch: watch_slices(WatchSlicesRequest) -> WatchSlicesResponse as WatchSlicesStream,
        also: rotate_keys(RotateKeysRequest) -> RotateKeysResponse by crate::keys::rotate,
    }
    profiles: QosProfile {
        object: kubernetes::SliceQosProfile, field: qos_profile, in_project: true,
        service: qos_profile_service_server::{QosProfileService, QosProfileServiceServer}, many: qos_profiles,
        create: create_qos_profile(CreateQosProfileRequest) -> CreateQosProfileResponse,
        get: get_qos_profile(GetQosProfileRequest) -> GetQosProfileResponse,
        list: list_qos_profiles(ListQosProfilesRequest) -> ListQosProfilesResponse,
        update: update_qos_profile(UpdateQosProfileRequest) -> UpdateQosProfileResponse,
        delete: delete_qos_profile(DeleteQosProfileRequest) -> DeleteQosProfileResponse,
        watch: watch_qos_profiles(WatchQosProfilesRequest) -> WatchQosProfilesResponse as WatchQosProfilesStream,
    }
    policies: SlicePolicy {
        object: kubernetes::SlicePolicy, field: slice_policy, in_project: true,
        service: slice_policy_service_server::{SlicePolicyService, SlicePolicyServiceServer}, many: slice_policies,
        create: create_slice_policy(CreateSlicePolicyRequest) -> CreateSlicePolicyResponse,
        get: get_slice_policy(GetSlicePolicyRequest) -> GetSlicePolicyResponse,
        list: list_slice_policies(ListSlicePoliciesRequest) -> ListSlicePoliciesResponse,
        update: update_slice_policy(UpdateSlicePolicyRequest) -> UpdateSlicePolicyResponse,
        delete: delete_slice_policy(DeleteSlicePolicyRequest) -> DeleteSlicePolicyResponse,
        watch: watch_slice_policies(WatchSlicePoliciesRequest) -> WatchSlicePoliciesResponse as WatchSlicePoliciesStream,
    }
    tokens: JoinToken {
        object: kubernetes::JoinToken, field: join_token, in_project: true,
        service: join_token_service_server::{JoinTokenService, JoinTokenServiceServer}, many: join_tokens,
        create: create_join_token(CreateJoinTokenRequest) -> CreateJoinTokenResponse by crate::joining::create,
        get: get_join_token(GetJoinTokenRequest) -> GetJoinTokenResponse,
        list: list_join_tokens(ListJoinTokensRequest) -> ListJoinTokensResponse,
        delete: delete_join_token(DeleteJoinTokenRequest) -> DeleteJoinTokenResponse,
        watch: watch_join_tokens(WatchJoinTokensRequest) -> WatchJoinTokensResponse as WatchJoinTokensStream,
    }
}

#[cfg(test)]
mod tests;
