// SPDX-License-Identifier: Apache-2.0
//! No field is taken silently: each that the API server's schemas have works, which a test shows, or who writes it is
//! refused or warned.
//!
//! The walk begins at every kind that can be created or replaced and goes from definition to definition, so that a
//! container counts once, wherever it stands. A field that is in neither list fails the test: a newer version of
//! Kubernetes cannot add one unseen. How to add one: make it work and name the test in [`WORKS`], or let the kind refuse
//! it or warn of it (`registry/ignored.rs`) and say in [`REFUSED`] how that reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::Server;
use crate::server;

/// Definitions whose fields work: the definition, the fields (`*`: all of them, and what is below), a test that shows it.
#[rustfmt::skip]
const WORKS: &[(&str, &str, &str)] = &[
    // What every object has.
    ("meta.v1.ObjectMeta", "annotations labels name namespace", "an_object_lives_from_creation_to_deletion"),
    ("meta.v1.ObjectMeta", "creationTimestamp resourceVersion uid", "an_object_lives_from_creation_to_deletion"),
    ("meta.v1.ObjectMeta", "deletionGracePeriodSeconds deletionTimestamp", "a_running_pod_ends_with_grace_and_an_unscheduled_one_at_once"),
    ("meta.v1.ObjectMeta", "finalizers", "finalizers_keep_a_deleted_object_until_they_are_gone"),
    ("meta.v1.ObjectMeta", "generateName", "generated_names_are_new_each_time"),
    ("meta.v1.ObjectMeta", "generation", "spec_and_status_are_written_apart_and_the_generation_counts_specs"),
    ("meta.v1.ObjectMeta", "ownerReferences", "what_is_owned_goes_with_its_owner_unless_it_is_orphaned"),
    // Both are the server's own to write; what a client sends is dropped.
    ("meta.v1.ObjectMeta", "selfLink", "what_only_the_server_says_of_an_object_is_dropped"),
    ("meta.v1.ObjectMeta", "managedFields", "what_only_the_server_says_of_an_object_is_dropped"),
    ("meta.v1.ManagedFieldsEntry", "*", "what_only_the_server_says_of_an_object_is_dropped"),
    ("meta.v1.OwnerReference", "*", "foreground_deletion_waits_for_every_blocking_dependent"),
    ("meta.v1.LabelSelector", "*", "a_selector_that_does_not_match_the_template_is_invalid"),
    ("core.v1.ObjectReference", "*", "a_slice_says_everything_about_its_endpoints"),

    // Pods.
    ("core.v1.Pod", "apiVersion kind metadata spec", "a_pod_starts_pending_with_tolerations_and_an_account"),
    // Sent with a pod it is dropped; afterwards it is what the node and others say of the pod.
    ("core.v1.PodStatus", "*", "a_report_keeps_the_conditions_of_others"),
    ("core.v1.Pod", "status", "a_report_keeps_the_conditions_of_others"),
    ("core.v1.PodSpec", "activeDeadlineSeconds", "a_pod_past_its_deadline_fails"),
    ("core.v1.PodSpec", "affinity", "node_affinity_reads_labels_fields_and_alternatives"),
    ("core.v1.PodSpec", "containers", "a_fresh_pod_gets_a_sandbox_and_then_its_container"),
    ("core.v1.PodSpec", "dnsConfig dnsPolicy", "the_resolver_is_the_nodes_with_the_pods_additions"),
    ("core.v1.PodSpec", "enableServiceLinks", "service_links_can_be_switched_off_except_for_the_api_itself"),
    ("core.v1.PodSpec", "hostAliases", "the_hosts_file_names_the_pod_and_the_aliases"),
    ("core.v1.PodSpec", "hostIPC hostPID", "a_privileged_container_of_the_host_sees_the_host"),
    ("core.v1.PodSpec", "hostNetwork", "a_pod_on_the_host_network_sees_the_hosts_own_file"),
    ("core.v1.PodSpec", "hostname hostnameOverride subdomain", "the_hostname_is_the_pods_name_unless_it_says_otherwise"),
    ("core.v1.PodSpec", "initContainers", "init_containers_run_one_after_another_before_the_others"),
    ("core.v1.PodSpec", "nodeName", "a_pod_is_told_to_its_own_node_once_it_is_bound"),
    ("core.v1.PodSpec", "nodeSelector", "each_filter_has_its_own_words"),
    ("core.v1.PodSpec", "os", "a_pod_for_windows_is_refused"),
    ("core.v1.PodSpec", "overhead", "start_up_steps_sidecars_and_overhead_count_as_kubernetes_counts_them"),
    // Nothing is preempted, so that a pod which must not preempt is as it wants to be.
    ("core.v1.PodSpec", "preemptionPolicy priority priorityClassName", "a_priority_is_computed_and_another_one_refused"),
    ("core.v1.PodSpec", "readinessGates", "a_pod_is_ready_while_all_conditions_of_its_gates_are_true"),
    ("core.v1.PodSpec", "restartPolicy", "restart_policies_decide_by_exit_code"),
    ("core.v1.PodSpec", "schedulerName schedulingGates", "pods_for_others_or_with_gates_are_left_alone"),
    ("core.v1.PodSpec", "securityContext", "the_user_comes_from_the_container_then_the_pod_then_the_image"),
    ("core.v1.PodSpec", "serviceAccount serviceAccountName", "a_pod_waits_a_moment_for_the_default_account_and_for_no_other"),
    ("core.v1.PodSpec", "shareProcessNamespace", "a_shared_pid_namespace_is_shared_and_ends_with_the_container"),
    ("core.v1.PodSpec", "terminationGracePeriodSeconds", "a_deleted_pod_is_stopped_killed_after_its_grace_and_then_gone"),
    ("core.v1.PodSpec", "tolerations", "tolerations_match_by_key_value_and_effect"),
    ("core.v1.PodSpec", "volumes", "config_maps_and_secrets_become_files"),
    ("core.v1.Affinity", "nodeAffinity podAffinity podAntiAffinity", "node_affinity_reads_labels_fields_and_alternatives"),
    ("core.v1.NodeAffinity", "*", "preferred_affinity_outweighs_an_emptier_node"),
    ("core.v1.PodDNSConfig", "*", "the_resolver_is_the_nodes_with_the_pods_additions"),
    ("core.v1.HostAlias", "*", "the_hosts_file_names_the_pod_and_the_aliases"),
    ("core.v1.PodOS", "*", "a_pod_for_windows_is_refused"),
    ("core.v1.PodReadinessGate", "*", "a_pod_is_ready_while_all_conditions_of_its_gates_are_true"),
    ("core.v1.PodSchedulingGate", "*", "pods_for_others_or_with_gates_are_left_alone"),
    ("core.v1.Toleration", "*", "tolerations_match_by_key_value_and_effect"),
    ("core.v1.PodSecurityContext", "appArmorProfile seccompProfile fsGroupChangePolicy", "an_ordinary_pod_is_accepted"),
    ("core.v1.PodSecurityContext", "fsGroup", "a_group_reads_the_files_of_a_volume_and_refreshing_them_changes_nothing"),
    ("core.v1.PodSecurityContext", "runAsGroup runAsUser", "the_user_comes_from_the_container_then_the_pod_then_the_image"),
    ("core.v1.PodSecurityContext", "runAsNonRoot", "run_as_non_root_is_enforced_before_the_start"),
    ("core.v1.PodSecurityContext", "seLinuxOptions", "se_linux_labels_mean_nothing_without_se_linux_and_are_refused_with_it"),
    ("core.v1.PodSecurityContext", "supplementalGroups supplementalGroupsPolicy", "groups_of_volumes_and_supplements_are_joined"),
    ("core.v1.PodSecurityContext", "sysctls", "a_container_sees_its_sysctls_and_its_last_words_are_the_end_of_what_it_said"),
    ("core.v1.Sysctl", "*", "a_pod_sets_what_is_safe_or_allowed_and_nothing_of_the_nodes_own"),
    ("core.v1.SELinuxOptions", "*", "se_linux_labels_mean_nothing_without_se_linux_and_are_refused_with_it"),
    // The file of a profile is read for type Localhost only, which is not carried out.
    ("core.v1.AppArmorProfile", "type localhostProfile", "an_ordinary_pod_is_accepted"),
    ("core.v1.SeccompProfile", "type localhostProfile", "an_ordinary_pod_is_accepted"),

    // Containers.
    ("core.v1.Container", "args command", "command_and_args_replace_entrypoint_and_cmd_as_kubernetes_says"),
    ("core.v1.Container", "env envFrom", "env_wins_over_env_from_and_env_from_over_service_variables"),
    ("core.v1.Container", "image name", "a_changed_image_replaces_the_container_whatever_the_restart_policy_says"),
    ("core.v1.Container", "imagePullPolicy", "the_pulled_event_says_when_a_pull_was_asked_for_and_not_made"),
    ("core.v1.Container", "lifecycle", "pre_stop_sleep_counts_into_the_grace_period"),
    ("core.v1.Container", "livenessProbe", "a_failed_liveness_probe_stops_and_restarts_the_container"),
    ("core.v1.Container", "ports", "a_named_port_is_looked_up_in_each_pod"),
    ("core.v1.Container", "readinessProbe startupProbe", "a_container_with_probes_is_neither_started_nor_ready_before_an_answer"),
    ("core.v1.Container", "resources", "a_container_gets_its_own_limits"),
    ("core.v1.Container", "restartPolicy", "a_sidecar_starts_first_is_restarted_and_is_stopped_last"),
    ("core.v1.Container", "restartPolicyRules", "restart_rules_of_a_container_override_the_pod"),
    ("core.v1.Container", "securityContext", "security_settings_reach_the_plan"),
    ("core.v1.Container", "terminationMessagePath terminationMessagePolicy", "the_end_of_the_log_stands_in_for_last_words_after_a_failure"),
    ("core.v1.Container", "volumeMounts", "mounts_name_their_volume_and_expand_their_sub_path"),
    ("core.v1.Container", "workingDir", "command_arguments_environment_and_working_directory_reach_the_container"),
    ("core.v1.ContainerRestartRule", "action exitCodes", "restart_rules_of_a_container_override_the_pod"),
    ("core.v1.ContainerRestartRuleOnExitCodes", "*", "restart_rules_of_a_container_override_the_pod"),
    ("core.v1.ContainerPort", "containerPort name protocol", "a_named_port_is_looked_up_in_each_pod"),
    // On the node's own network the container opens its ports itself, at the address that it chooses.
    ("core.v1.ContainerPort", "hostPort hostIP", "host_ports_exclude_each_other_on_a_node"),
    ("core.v1.EnvVar", "name value valueFrom", "a_variable_sees_those_before_it"),
    ("core.v1.EnvFromSource", "*", "env_wins_over_env_from_and_env_from_over_service_variables"),
    ("core.v1.EnvVarSource", "configMapKeyRef secretKeyRef", "missing_sources_are_errors_in_kubernetes_words_unless_optional"),
    ("core.v1.EnvVarSource", "fieldRef", "fields_of_the_pod_and_its_node_can_be_read"),
    ("core.v1.EnvVarSource", "resourceFieldRef", "resources_are_rounded_up_to_their_divisor_and_default_to_the_node"),
    ("core.v1.ConfigMapKeySelector", "*", "missing_sources_are_errors_in_kubernetes_words_unless_optional"),
    ("core.v1.SecretKeySelector", "*", "missing_sources_are_errors_in_kubernetes_words_unless_optional"),
    ("core.v1.ObjectFieldSelector", "*", "fields_of_the_pod_and_its_node_can_be_read"),
    ("core.v1.ResourceFieldSelector", "*", "resources_are_rounded_up_to_their_divisor_and_default_to_the_node"),
    ("core.v1.Lifecycle", "preStop", "pre_stop_sleep_counts_into_the_grace_period"),
    ("core.v1.Lifecycle", "stopSignal", "a_stop_signal_is_one_of_the_pods_system"),
    ("core.v1.LifecycleHandler", "sleep", "pre_stop_sleep_comes_before_the_signal_of_a_restart"),
    ("core.v1.SleepAction", "*", "pre_stop_sleep_comes_before_the_signal_of_a_restart"),
    ("core.v1.Probe", "failureThreshold successThreshold", "a_threshold_of_failures_in_a_row_changes_the_verdict"),
    ("core.v1.Probe", "httpGet tcpSocket initialDelaySeconds periodSeconds timeoutSeconds", "probes_are_read_with_kubernetes_defaults"),
    ("core.v1.Probe", "terminationGracePeriodSeconds", "a_failed_liveness_probe_stops_and_restarts_the_container"),
    ("core.v1.HTTPGetAction", "host httpHeaders path port", "the_request_is_kubelets"),
    ("core.v1.HTTPGetAction", "scheme", "a_scheme_is_one_of_two"),
    ("core.v1.HTTPHeader", "*", "the_request_is_kubelets"),
    ("core.v1.TCPSocketAction", "*", "a_refused_connection_fails_a_tcp_probe"),
    ("core.v1.ResourceRequirements", "limits requests", "limits_reach_the_cgroups_of_pod_and_container"),
    ("core.v1.SecurityContext", "allowPrivilegeEscalation capabilities privileged readOnlyRootFilesystem", "security_settings_reach_the_plan"),
    ("core.v1.SecurityContext", "appArmorProfile seccompProfile procMount", "an_ordinary_pod_is_accepted"),
    ("core.v1.SecurityContext", "runAsGroup runAsUser", "the_user_comes_from_the_container_then_the_pod_then_the_image"),
    ("core.v1.SecurityContext", "runAsNonRoot", "run_as_non_root_is_enforced_before_the_start"),
    ("core.v1.SecurityContext", "seLinuxOptions", "se_linux_labels_mean_nothing_without_se_linux_and_are_refused_with_it"),
    ("core.v1.Capabilities", "*", "privileges_can_be_taken_away"),

    // Volumes.
    ("core.v1.Volume", "name configMap secret", "config_maps_and_secrets_become_files"),
    ("core.v1.Volume", "downwardAPI", "a_pod_follows_its_metadata_and_what_others_write_into_its_status"),
    ("core.v1.Volume", "emptyDir", "empty_dirs_are_on_disk_or_in_memory_with_their_size"),
    ("core.v1.Volume", "hostPath", "a_host_path_of_the_wrong_kind_is_refused"),
    ("core.v1.Volume", "projected", "projected_sources_come_together"),
    ("core.v1.ConfigMapVolumeSource", "defaultMode items name optional", "config_maps_and_secrets_become_files"),
    ("core.v1.SecretVolumeSource", "defaultMode items optional secretName", "config_maps_and_secrets_become_files"),
    ("core.v1.ConfigMapProjection", "*", "projected_sources_come_together"),
    ("core.v1.SecretProjection", "*", "projected_sources_come_together"),
    ("core.v1.DownwardAPIProjection", "*", "projected_sources_come_together"),
    ("core.v1.ProjectedVolumeSource", "defaultMode sources", "projected_sources_come_together"),
    ("core.v1.VolumeProjection", "configMap downwardAPI secret", "projected_sources_come_together"),
    ("core.v1.DownwardAPIVolumeSource", "defaultMode items", "a_pod_follows_its_metadata_and_what_others_write_into_its_status"),
    ("core.v1.DownwardAPIVolumeFile", "fieldRef mode path resourceFieldRef", "a_pod_follows_its_metadata_and_what_others_write_into_its_status"),
    ("core.v1.KeyToPath", "key mode path", "config_maps_and_secrets_become_files"),
    ("core.v1.EmptyDirVolumeSource", "medium sizeLimit", "empty_dirs_are_on_disk_or_in_memory_with_their_size"),
    ("core.v1.HostPathVolumeSource", "*", "a_host_path_of_the_wrong_kind_is_refused"),
    ("core.v1.VolumeMount", "mountPath name readOnly subPath subPathExpr", "mounts_name_their_volume_and_expand_their_sub_path"),
    ("core.v1.VolumeMount", "mountPropagation", "mounts_propagate_as_they_are_asked_to"),

    // Services and their endpoints.
    ("core.v1.Service", "apiVersion kind metadata spec", "a_service_gets_an_address_and_a_node_port_and_its_defaults"),
    // It is for load balancers to write; none comes with this version.
    ("core.v1.Service", "status", "headless_external_and_balanced_services_are_stored"),
    ("core.v1.ServiceStatus", "*", "headless_external_and_balanced_services_are_stored"),
    ("core.v1.ServiceSpec", "allocateLoadBalancerNodePorts type externalName", "headless_external_and_balanced_services_are_stored"),
    ("core.v1.ServiceSpec", "clusterIP clusterIPs ipFamilies ipFamilyPolicy", "addresses_and_ports_that_are_taken_or_outside_are_refused_as_kubernetes_does"),
    ("core.v1.ServiceSpec", "externalTrafficPolicy internalTrafficPolicy", "node_ports_have_tables_and_follow_their_policies"),
    ("core.v1.ServiceSpec", "ports", "one_port_number_may_carry_two_protocols"),
    ("core.v1.ServiceSpec", "publishNotReadyAddresses", "conditions_follow_readiness_termination_and_the_services_wish"),
    ("core.v1.ServiceSpec", "selector", "endpoints_follow_ready_pods"),
    ("core.v1.ServiceSpec", "sessionAffinity sessionAffinityConfig", "clients_keep_their_pod_until_the_timeout_has_passed_and_no_longer"),
    ("core.v1.SessionAffinityConfig", "*", "clients_keep_their_pod_until_the_timeout_has_passed_and_no_longer"),
    ("core.v1.ServicePort", "*", "a_node_port_is_answered_from_outside_through_any_node_wherever_the_pods_are"),
    ("core.v1.Endpoints", "*", "endpoints_of_a_service_without_selector_are_not_touched"),
    ("discovery.v1.EndpointSlice", "addressType apiVersion endpoints kind metadata ports", "a_slice_says_everything_about_its_endpoints"),
    ("discovery.v1.Endpoint", "addresses conditions hostname nodeName targetRef zone", "a_slice_says_everything_about_its_endpoints"),
    ("discovery.v1.EndpointConditions", "*", "conditions_follow_readiness_termination_and_the_services_wish"),
    ("discovery.v1.EndpointPort", "*", "a_slice_says_everything_about_its_endpoints"),

    // Nodes.
    ("core.v1.Node", "apiVersion kind metadata spec", "of_a_reported_node_only_name_labels_and_status_are_taken"),
    ("core.v1.Node", "status", "labels_of_people_and_conditions_of_controllers_stay"),
    ("core.v1.NodeStatus", "*", "labels_of_people_and_conditions_of_controllers_stay"),
    ("core.v1.NodeSpec", "podCIDR podCIDRs", "nodes_are_told_about_each_other_once_they_have_a_pod_range"),
    // For cloud controllers to read.
    ("core.v1.NodeSpec", "providerID", "an_object_lives_from_creation_to_deletion"),
    ("core.v1.NodeSpec", "taints", "pods_leave_when_their_toleration_ends"),
    ("core.v1.NodeSpec", "unschedulable", "each_filter_has_its_own_words"),
    ("core.v1.Taint", "*", "pods_leave_when_their_toleration_ends"),

    // Workloads.
    ("apps.v1.Deployment", "apiVersion kind metadata spec", "a_new_deployment_gets_a_full_set_a_revision_and_a_first_status"),
    ("apps.v1.Deployment", "status", "a_failure_of_a_set_is_shown_on_the_deployment"),
    ("apps.v1.DeploymentStatus", "*", "a_failure_of_a_set_is_shown_on_the_deployment"),
    ("apps.v1.DeploymentSpec", "minReadySeconds replicas", "a_rollout_keeps_its_bounds_and_ends_complete_whatever_the_order_of_events"),
    ("apps.v1.DeploymentSpec", "paused", "a_paused_deployment_scales_but_does_not_roll"),
    ("apps.v1.DeploymentSpec", "progressDeadlineSeconds", "a_rollout_that_never_becomes_ready_leaves_enough_old_pods_and_times_out"),
    ("apps.v1.DeploymentSpec", "revisionHistoryLimit", "only_as_many_old_sets_stay_as_the_history_limit_says"),
    ("apps.v1.DeploymentSpec", "selector template", "orphans_are_adopted_and_strangers_released"),
    ("apps.v1.DeploymentSpec", "strategy", "recreation_waits_until_the_last_old_pod_is_gone"),
    ("apps.v1.DeploymentStrategy", "*", "percentages_round_surge_up_and_unavailable_down_and_never_both_to_none"),
    ("apps.v1.ReplicaSet", "apiVersion kind metadata spec", "missing_pods_are_created_and_surplus_ones_deleted"),
    ("apps.v1.ReplicaSet", "status", "the_status_counts_ready_and_available_pods_and_is_written_once"),
    ("apps.v1.ReplicaSetStatus", "*", "the_status_counts_ready_and_available_pods_and_is_written_once"),
    ("apps.v1.ReplicaSetSpec", "minReadySeconds", "the_status_counts_ready_and_available_pods_and_is_written_once"),
    ("apps.v1.ReplicaSetSpec", "replicas selector template", "missing_pods_are_created_and_surplus_ones_deleted"),
    ("core.v1.PodTemplateSpec", "metadata spec", "a_new_pod_carries_template_and_owner"),
    ("autoscaling.v1.Scale", "*", "a_deployment_keeps_its_number_of_pods"),

    // What pods and people keep.
    ("core.v1.ConfigMap", "*", "config_maps_and_secrets_become_files"),
    ("core.v1.Secret", "*", "config_maps_and_secrets_become_files"),
    ("core.v1.Namespace", "*", "a_namespace_takes_everything_in_it_along"),
    // Its secrets are for people to read; no pod gets them.
    ("core.v1.ServiceAccount", "apiVersion kind metadata secrets", "every_namespace_has_a_service_account_and_the_cluster_its_namespaces"),
    ("coordination.v1.Lease", "*", "an_object_lives_from_creation_to_deletion"),
    ("core.v1.Event", "*", "one_event_has_two_faces"),
    ("events.v1.Event", "*", "a_whole_event_of_the_newer_api_is_read_by_the_older_one_with_its_fields_mapped"),

    // Requests.
    ("core.v1.Binding", "*", "a_binding_that_names_its_pod_itself_binds_it_once"),
    ("policy.v1.Eviction", "*", "an_eviction_is_a_deletion"),
    ("meta.v1.DeleteOptions", "*", "preconditions_and_propagation_of_a_deletion_are_heeded"),
    ("authentication.v1.SelfSubjectReview", "*", "masters_may_act_for_others_and_nobody_else_may"),
    ("authorization.v1.SelfSubjectAccessReview", "*", "the_admin_may_do_everything_and_is_told_so"),
    ("authorization.v1.SelfSubjectRulesReview", "*", "the_admin_may_do_everything_and_is_told_so"),
    ("authorization.v1.SubjectAccessReview", "*", "other_users_see_discovery_and_may_ask_what_they_may"),
];

const WAITS: &str = "is not supported by this version: the pod waits";
const NO_EFFECT: &str = "has no effect";

/// Fields with a value that is refused or warned of: the kind, where it stands, the value, what is said about it.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str, &str)] = &[
    ("Pod", "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution", "[{\"weight\": 1}]", NO_EFFECT),
    ("Pod", "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution", "[{\"topologyKey\": \"a\"}]", "stays Pending"),
    ("Pod", "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution", "[{\"weight\": 1}]", NO_EFFECT),
    ("Pod", "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution", "[{\"topologyKey\": \"a\"}]", "stays Pending"),
    ("Pod", "spec.automountServiceAccountToken", "true", NO_EFFECT),
    ("Pod", "spec.ephemeralContainers", "[{\"name\": \"e\", \"image\": \"i\"}]", "Forbidden: cannot be set on create"),
    ("Pod", "spec.evictionResponders", "[{\"name\": \"a.b/c\"}]", NO_EFFECT),
    ("Pod", "spec.hostUsers", "false", WAITS),
    ("Pod", "spec.imagePullSecrets", "[{\"name\": \"a\"}]", NO_EFFECT),
    ("Pod", "spec.resourceClaims", "[{\"name\": \"a\"}]", WAITS),
    ("Pod", "spec.resources", "{\"limits\": {\"cpu\": \"1\"}}", WAITS),
    ("Pod", "spec.runtimeClassName", "\"a\"", WAITS),
    ("Pod", "spec.schedulingGroup", "{\"podGroupName\": \"a\"}", NO_EFFECT),
    ("Pod", "spec.securityContext.seLinuxChangePolicy", "\"Recursive\"", NO_EFFECT),
    ("Pod", "spec.securityContext.windowsOptions", "{}", WAITS),
    ("Pod", "spec.securityContext.appArmorProfile.type", "\"RuntimeDefault\"", WAITS),
    ("Pod", "spec.securityContext.seccompProfile.type", "\"RuntimeDefault\"", WAITS),
    ("Pod", "spec.setHostnameAsFQDN", "true", WAITS),
    ("Pod", "spec.topologySpreadConstraints", "[{\"maxSkew\": 1, \"topologyKey\": \"a\", \"whenUnsatisfiable\": \"ScheduleAnyway\"}]", NO_EFFECT),
    ("Pod", "spec.topologySpreadConstraints", "[{\"maxSkew\": 1, \"topologyKey\": \"a\", \"whenUnsatisfiable\": \"DoNotSchedule\"}]", "stays Pending"),
    ("Pod", "spec.containers[0].env[0].valueFrom.fileKeyRef", "{\"volumeName\": \"v\", \"path\": \"p\", \"key\": \"k\"}", NO_EFFECT),
    ("Pod", "spec.containers[0].lifecycle.postStart", "{\"exec\": {\"command\": [\"a\"]}}", WAITS),
    ("Pod", "spec.containers[0].lifecycle.preStop.exec", "{\"command\": [\"a\"]}", WAITS),
    ("Pod", "spec.containers[0].lifecycle.preStop.httpGet", "{\"port\": 80}", WAITS),
    ("Pod", "spec.containers[0].lifecycle.preStop.tcpSocket", "{\"port\": 80}", WAITS),
    ("Pod", "spec.containers[0].livenessProbe.exec", "{\"command\": [\"a\"]}", WAITS),
    ("Pod", "spec.containers[0].livenessProbe.grpc", "{\"port\": 80}", WAITS),
    ("Pod", "spec.containers[0].readinessProbe.exec", "{\"command\": [\"a\"]}", WAITS),
    ("Pod", "spec.containers[0].startupProbe.grpc", "{\"port\": 80}", WAITS),
    ("Pod", "spec.containers[0].readinessProbe.httpGet.protocol", "\"HTTP2\"", NO_EFFECT),
    ("Pod", "spec.containers[0].ports", "[{\"containerPort\": 80, \"hostPort\": 80}]", WAITS),
    ("Pod", "spec.containers[0].resizePolicy", "[{\"resourceName\": \"cpu\", \"restartPolicy\": \"NotRequired\"}]", NO_EFFECT),
    ("Pod", "spec.containers[0].resources.claims", "[{\"name\": \"a\"}]", WAITS),
    ("Pod", "spec.containers[0].restartPolicyRules", "[{\"action\": \"RestartAllContainers\", \"exitCodes\": {\"operator\": \"In\", \"values\": [1]}}]", "Unsupported value: \\\"RestartAllContainers\\\""),
    ("Pod", "spec.containers[0].securityContext.appArmorProfile.type", "\"RuntimeDefault\"", WAITS),
    ("Pod", "spec.containers[0].securityContext.procMount", "\"Unmasked\"", WAITS),
    ("Pod", "spec.containers[0].securityContext.seccompProfile.type", "\"RuntimeDefault\"", WAITS),
    ("Pod", "spec.containers[0].securityContext.windowsOptions", "{}", WAITS),
    ("Pod", "spec.containers[0].stdin", "true", WAITS),
    ("Pod", "spec.containers[0].stdinOnce", "true", NO_EFFECT),
    ("Pod", "spec.containers[0].tty", "true", WAITS),
    ("Pod", "spec.containers[0].volumeDevices", "[{\"name\": \"v\", \"devicePath\": \"/d\"}]", WAITS),
    ("Pod", "spec.containers[0].volumeMounts[0].bindMountOptions", "[\"noexec\"]", NO_EFFECT),
    ("Pod", "spec.containers[0].volumeMounts[0].recursiveReadOnly", "\"Enabled\"", WAITS),
    ("Pod", "spec.volumes[0].awsElasticBlockStore", "{\"volumeID\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].azureDisk", "{\"diskName\": \"a\", \"diskURI\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].azureFile", "{\"secretName\": \"a\", \"shareName\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].cephfs", "{\"monitors\": [\"a\"]}", WAITS),
    ("Pod", "spec.volumes[0].cinder", "{\"volumeID\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].csi", "{\"driver\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].ephemeral", "{}", WAITS),
    ("Pod", "spec.volumes[0].fc", "{}", WAITS),
    ("Pod", "spec.volumes[0].flexVolume", "{\"driver\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].flocker", "{}", WAITS),
    ("Pod", "spec.volumes[0].gcePersistentDisk", "{\"pdName\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].gitRepo", "{\"repository\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].glusterfs", "{\"endpoints\": \"a\", \"path\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].image", "{}", WAITS),
    ("Pod", "spec.volumes[0].iscsi", "{\"iqn\": \"a\", \"lun\": 1, \"targetPortal\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].nfs", "{\"server\": \"a\", \"path\": \"/\"}", WAITS),
    ("Pod", "spec.volumes[0].persistentVolumeClaim", "{\"claimName\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].photonPersistentDisk", "{\"pdID\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].portworxVolume", "{\"volumeID\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].quobyte", "{\"registry\": \"a\", \"volume\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].rbd", "{\"image\": \"a\", \"monitors\": [\"a\"]}", WAITS),
    ("Pod", "spec.volumes[0].scaleIO", "{\"gateway\": \"a\", \"secretRef\": {}, \"system\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].storageos", "{}", WAITS),
    ("Pod", "spec.volumes[0].vsphereVolume", "{\"volumePath\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].configMap.defaultUser", "1", NO_EFFECT),
    ("Pod", "spec.volumes[0].configMap.items[0].user", "1", NO_EFFECT),
    ("Pod", "spec.volumes[0].downwardAPI.defaultUser", "1", NO_EFFECT),
    ("Pod", "spec.volumes[0].downwardAPI.items[0].user", "1", NO_EFFECT),
    ("Pod", "spec.volumes[0].emptyDir.medium", "\"HugePages\"", WAITS),
    ("Pod", "spec.volumes[0].emptyDir.mode", "511", NO_EFFECT),
    ("Pod", "spec.volumes[0].projected.defaultUser", "1", NO_EFFECT),
    ("Pod", "spec.volumes[0].projected.sources", "[{\"clusterTrustBundle\": {\"path\": \"a\"}}]", WAITS),
    ("Pod", "spec.volumes[0].projected.sources[0].clusterTrustBundle", "{\"path\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].projected.sources[0].podCertificate", "{\"keyType\": \"a\", \"signerName\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].projected.sources[0].serviceAccountToken", "{\"path\": \"a\"}", WAITS),
    ("Pod", "spec.volumes[0].secret.defaultUser", "1", NO_EFFECT),
    ("Node", "spec.configSource", "{}", "no longer supported"),
    ("Node", "spec.externalID", "\"a\"", "deprecated"),
    ("Node", "spec.podPreemptionPolicy", "{}", NO_EFFECT),
    ("Service", "spec.externalIPs", "[\"198.18.0.9\"]", NO_EFFECT),
    ("Service", "spec.healthCheckNodePort", "31000", NO_EFFECT),
    ("Service", "spec.loadBalancerClass", "\"a.b/c\"", NO_EFFECT),
    ("Service", "spec.loadBalancerIP", "\"198.18.0.9\"", NO_EFFECT),
    ("Service", "spec.loadBalancerSourceRanges", "[\"198.18.0.0/24\"]", NO_EFFECT),
    ("Service", "spec.trafficDistribution", "\"PreferClose\"", NO_EFFECT),
    ("ServiceAccount", "automountServiceAccountToken", "true", NO_EFFECT),
    ("ServiceAccount", "imagePullSecrets", "[{\"name\": \"a\"}]", NO_EFFECT),
    ("EndpointSlice", "endpoints[0].deprecatedTopology", "{\"a\": \"b\"}", NO_EFFECT),
    ("EndpointSlice", "endpoints[0].hints", "{}", NO_EFFECT),
    // The same in a template.
    ("Deployment", "spec.template.spec.containers[0].stdin", "true", WAITS),
    ("Deployment", "spec.template.spec.ephemeralContainers", "[{\"name\": \"e\", \"image\": \"i\"}]", "Forbidden: ephemeral containers not allowed in pod template"),
    ("ReplicaSet", "spec.template.spec.hostUsers", "false", WAITS),
];

/// Where objects of a kind are created.
fn collection(kind: &str) -> &'static str {
    match kind {
        "Pod" => "/api/v1/namespaces/default/pods",
        "Node" => "/api/v1/nodes",
        "Service" => "/api/v1/namespaces/default/services",
        "ServiceAccount" => "/api/v1/namespaces/default/serviceaccounts",
        "EndpointSlice" => "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        "Deployment" => "/apis/apps/v1/namespaces/default/deployments",
        "ReplicaSet" => "/apis/apps/v1/namespaces/default/replicasets",
        other => panic!("where is a {other} created?"),
    }
}

/// An object of a kind that is taken without a word.
fn plain(kind: &str) -> Value {
    let pod = json!({
        "containers": [{"name": "c", "image": "i:1", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v"}],
    });
    let mut object = match kind {
        "Pod" => json!({"spec": pod}),
        "Service" => json!({"spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "selector": {"a": "b"}, "ports": [{"port": 80}]}}),
        "EndpointSlice" => {
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}]})
        }
        "Deployment" | "ReplicaSet" => json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}}),
        _ => json!({}),
    };
    object["metadata"] = json!({"name": "x"});
    object
}

/// Puts a value at a path such as `spec.containers[0].stdin`.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut at = object;
    for step in path.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        at = &mut at[name];
        if let Some(index) = index {
            if at.is_null() {
                *at = json!([{}]);
            }
            at = &mut at[index];
        }
    }
    *at = value;
}

/// The same with what has to stand beside it.
fn put(object: &mut Value, path: &str, value: Value) {
    set(object, path, value);
    let beside: &[(&str, &str, Value)] = &[
        (
            "spec.healthCheckNodePort",
            "spec.externalTrafficPolicy",
            json!("Local"),
        ),
        (
            "spec.volumes[0].configMap.",
            "spec.volumes[0].configMap.name",
            json!("m"),
        ),
        (
            "spec.volumes[0].configMap.items",
            "spec.volumes[0].configMap.items[0].key",
            json!("k"),
        ),
        (
            "spec.volumes[0].configMap.items",
            "spec.volumes[0].configMap.items[0].path",
            json!("p"),
        ),
        (
            "spec.volumes[0].downwardAPI.items",
            "spec.volumes[0].downwardAPI.items[0].path",
            json!("p"),
        ),
        (
            "spec.volumes[0].secret.",
            "spec.volumes[0].secret.secretName",
            json!("s"),
        ),
        (
            "spec.containers[0].env[0].",
            "spec.containers[0].env[0].name",
            json!("A"),
        ),
        (
            "spec.containers[0].restartPolicyRules",
            "spec.containers[0].restartPolicy",
            json!("Never"),
        ),
        (
            "spec.containers[0].readinessProbe.httpGet.",
            "spec.containers[0].readinessProbe.httpGet.port",
            json!(80),
        ),
    ];
    for (of, also, value) in beside {
        // Not below itself again.
        if path.starts_with(of) && path != *also {
            set(object, also, value.clone());
        }
    }
}

/// The definitions of all groups by name, and those that can be sent whole.
pub(crate) struct Definitions {
    pub(crate) all: BTreeMap<String, Value>,
    pub(crate) roots: BTreeSet<String>,
}

/// `core.v1.Pod` of `#/components/schemas/io.k8s.api.core.v1.Pod`.
fn name_of(reference: &str) -> String {
    let parts: Vec<&str> = reference.rsplit('.').take(3).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(".")
}

/// The definition that a schema refers to, by itself, as a list or as a map.
fn referred(schema: &Value) -> Option<String> {
    let reference = schema["$ref"].as_str();
    let reference = reference.or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(reference) = reference {
        return Some(name_of(reference));
    }
    let below = ["items", "additionalProperties"].map(|key| &schema[key]);
    below.into_iter().find(|s| s.is_object()).and_then(referred)
}

pub(crate) async fn definitions(server: &Server) -> Definitions {
    let index = server.get("/openapi/v3").await.json();
    let mut found = Definitions {
        all: BTreeMap::new(),
        roots: BTreeSet::new(),
    };
    for path in index["paths"].as_object().expect("paths").values() {
        let path = path["serverRelativeURL"].as_str().expect("a path");
        let document = server.get(path).await.json();
        let schemas = document["components"]["schemas"].as_object();
        for (name, schema) in schemas.into_iter().flatten() {
            found.all.insert(name_of(name), schema.clone());
        }
        let paths = document["paths"].as_object().into_iter().flatten();
        for operation in paths.flat_map(|(_, item)| [&item["post"], &item["put"], &item["delete"]])
        {
            let content = operation["requestBody"]["content"].as_object();
            let bodies = content
                .into_iter()
                .flatten()
                .map(|(_, body)| &body["schema"]);
            found.roots.extend(bodies.filter_map(referred));
        }
    }
    found
}

impl Definitions {
    pub(crate) fn fields(&self, name: &str) -> impl Iterator<Item = (&String, Option<String>)> {
        let properties = self.all.get(name).and_then(|s| s["properties"].as_object());
        let fields = properties.into_iter().flatten();
        fields.map(|(field, schema)| (field, referred(schema)))
    }

    /// `core.v1.Container stdin` of a path below a kind.
    fn field_at(&self, kind: &str, path: &str) -> (String, String) {
        let ends = |name: &&String| name.rsplit('.').next() == Some(kind);
        let root = self.roots.iter().find(ends);
        let mut at = root.unwrap_or_else(|| panic!("{kind} is no kind")).clone();
        let mut last = None;
        for step in path.split('.') {
            let step = step.split('[').next().unwrap_or(step).to_owned();
            let found = self.fields(&at).find(|(field, _)| **field == step);
            let (_, below) = found.unwrap_or_else(|| panic!("{at} has no {step} ({path})"));
            last = Some((at.clone(), step));
            at = below.unwrap_or_default();
        }
        last.expect("a path")
    }
}

/// The names of all tests of the workspace.
fn tests() -> BTreeSet<String> {
    fn look(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if path.is_dir() && name != "target" {
                look(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("readable");
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
                    if let Some((_, rest)) = line.split_once("fn ").filter(|_| is_test) {
                        found.insert(rest.split('(').next().unwrap_or(rest).to_owned());
                        is_test = false;
                    }
                }
            }
        }
    }
    // Where the test runs, not where it was compiled: a checkout may have been copied.
    let root = std::env::var("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let mut found = BTreeSet::new();
    for part in ["control", "agent", "ebpf", "tests", "xtask"] {
        look(&Path::new(&root).join("../..").join(part), &mut found);
    }
    found
}

#[tokio::test]
async fn every_field_works_or_is_refused_or_warned_of() {
    let (server, _directory) = server().await;
    let definitions = definitions(&server).await;
    let mut works: BTreeMap<(String, String), bool> = BTreeMap::new();
    for (definition, fields, _) in WORKS {
        for field in fields.split(' ') {
            let known = works.insert(((*definition).to_owned(), field.to_owned()), false);
            assert_eq!(known, None, "{definition}.{field} is listed twice");
        }
    }
    let refused: BTreeSet<(String, String)> = REFUSED
        .iter()
        .map(|(kind, path, ..)| definitions.field_at(kind, path))
        .collect();
    let mut waiting: Vec<String> = definitions.roots.iter().cloned().collect();
    let mut seen: BTreeSet<String> = waiting.iter().cloned().collect();
    let mut unlisted = Vec::new();
    while let Some(definition) = waiting.pop() {
        if let Some(used) = works.get_mut(&(definition.clone(), "*".to_owned())) {
            *used = true;
            continue;
        }
        for (field, below) in definitions.fields(&definition) {
            let works = works.get_mut(&(definition.clone(), field.clone()));
            match works {
                Some(used) => *used = true,
                None if refused.contains(&(definition.clone(), field.clone())) => continue,
                None => {
                    unlisted.push(format!("{definition}.{field}"));
                    continue;
                }
            }
            waiting.extend(below.filter(|name| seen.insert(name.clone())));
        }
    }
    assert!(seen.len() > 80, "the walk ended too soon: {seen:?}");
    assert_eq!(unlisted, Vec::<String>::new(), "in neither list");
    let unused = works
        .into_iter()
        .filter(|(_, used)| !used)
        .map(|(name, _)| name);
    assert_eq!(unused.collect::<Vec<_>>(), [], "listed and not there");
    let tests = tests();
    let missing = WORKS.iter().filter(|(.., test)| !tests.contains(*test));
    let missing: Vec<_> = missing.map(|(.., test)| test).collect();
    assert_eq!(missing, Vec::<&&str>::new(), "no such tests");
}

#[tokio::test]
async fn what_is_not_carried_out_is_said_when_it_is_written() {
    let (server, _directory) = server().await;
    let mut silent = Vec::new();
    for (kind, path, value, says) in REFUSED {
        let url = format!("{}?dryRun=All", collection(kind));
        let before = server.send("POST", &url, &plain(kind)).await;
        assert_eq!(before.code, 201, "{kind}: {}", before.text());
        assert_eq!(before.warnings(), Vec::<String>::new(), "{kind}");
        let mut object = plain(kind);
        let value: Value = serde_json::from_str(value).expect("JSON");
        put(&mut object, path, value);
        let answer = server.send("POST", &url, &object).await;
        let said = match answer.code {
            201 => answer.warnings(),
            _ => vec![answer.text()],
        };
        // What is said stands at the field or below.
        if !said
            .iter()
            .any(|text| text.contains(path) && text.contains(says))
        {
            silent.push(format!("{kind} {path}: {} {said:?}", answer.code));
        }
    }
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

#[tokio::test]
async fn resources_that_no_node_has_are_warned_of_where_no_scheduler_looks() {
    let (server, _directory) = server().await;
    let mut pod = plain("Pod");
    let gpu = json!({"limits": {"example.com/gpu": "1"}, "requests": {"example.com/gpu": "1"}});
    pod["spec"]["containers"][0]["resources"] = gpu;
    let url = format!("{}?dryRun=All", collection("Pod"));
    let scheduled = server.send("POST", &url, &pod).await;
    assert_eq!(scheduled.warnings(), Vec::<String>::new());
    pod["spec"]["nodeName"] = "node-1".into();
    let bound = server.send("POST", &url, &pod).await;
    assert_eq!(bound.code, 201, "{}", bound.text());
    let said = bound.warnings();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("spec.containers[0].resources.limits[example.com/gpu]: has no effect"),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_health_check_port_that_was_given_out_is_warned_of_as_one_that_was_asked_for() {
    let (server, _directory) = server().await;
    let mut service = plain("Service");
    service["spec"]["externalTrafficPolicy"] = "Local".into();
    let made = server.send("POST", collection("Service"), &service).await;
    let said = made.warnings();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].contains("spec.healthCheckNodePort: has no effect"),
        "{said:?}"
    );
}

#[tokio::test]
async fn what_only_the_server_says_of_an_object_is_dropped() {
    let (server, _directory) = server().await;
    let mut object = json!({"metadata": {"name": "x", "selfLink": "/somewhere"}});
    object["metadata"]["managedFields"] = json!([{"manager": "me", "operation": "Update"}]);
    let url = "/api/v1/namespaces/default/configmaps";
    let made = server.send("POST", url, &object).await.json();
    assert_eq!(made["metadata"]["name"], "x", "{made}");
    assert_eq!(made["metadata"].get("selfLink"), None, "{made}");
    assert_eq!(made["metadata"].get("managedFields"), None, "{made}");
}
