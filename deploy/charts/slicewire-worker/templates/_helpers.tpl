{{- define "slicewire.labels" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: slicewire
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "slicewire.selector" -}}
app.kubernetes.io/name: {{ .name }}
app.kubernetes.io/part-of: slicewire
{{- end }}

{{- define "slicewire.tag" -}}
{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "slicewire.image" -}}
image: {{ .root.Values.image.prefix }}/{{ .image }}:{{ include "slicewire.tag" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end }}

{{- define "slicewire.imageEnv" -}}
- name: SLICEWIRE_IMAGE_PREFIX
  value: {{ .Values.image.prefix | quote }}
- name: SLICEWIRE_IMAGE_TAG
  value: {{ include "slicewire.tag" . | quote }}
- name: SLICEWIRE_IMAGE_PULL_POLICY
  value: {{ .Values.image.pullPolicy | quote }}
{{- end }}

{{- define "slicewire.podEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: MALLOC_ARENA_MAX
  value: "2"
{{- end }}

{{- define "slicewire.restricted" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end }}

{{- define "slicewire.nonRoot" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "slicewire.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- define "slicewire.spread" -}}
affinity:
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels: {{ include "slicewire.selector" . | nindent 14 }}
{{- end }}
