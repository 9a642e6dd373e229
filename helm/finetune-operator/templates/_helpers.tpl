{{- define "finetune-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "finetune-operator.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "finetune-operator.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "finetune-operator.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "finetune-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "finetune-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- /* Labels that the operator puts on everything it creates (finetune_contract/names.py). */}}
{{- define "finetune-operator.trainingPodLabels" -}}
app.kubernetes.io/managed-by: finetune-operator
{{- end }}

{{- define "finetune-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "finetune-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* repository:tag, or repository@digest. Takes the image's values and the chart. */}}
{{- define "finetune-operator.image" -}}
{{- $image := index . 0 }}
{{- $chart := index . 1 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default $chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "finetune-operator.leaderElection" -}}
{{- if or .Values.leaderElection.enabled (gt (int .Values.replicaCount) 1) }}true{{ else }}false{{ end }}
{{- end }}

{{- /* What the operator does in a namespace it works in. Each verb is one that its code uses. */}}
{{- define "finetune-operator.namespacedRules" -}}
- apiGroups: [finetune.dev]
  resources: [finetunejobs]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [finetunejobs/status]
  verbs: [update]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, delete, get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [services]
  verbs: [create, get]
- apiGroups: [""]
  resources: [events]
  verbs: [create, list, update]
{{- end }}

{{- /* GPUClasses and Nodes are cluster-scoped: reading them takes a ClusterRole in every mode. */}}
{{- define "finetune-operator.clusterRules" -}}
- apiGroups: [finetune.dev]
  resources: [gpuclasses]
  verbs: [get, list, watch]
- apiGroups: [finetune.dev]
  resources: [gpuclasses/status]
  verbs: [update]
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}

{{- define "finetune-operator.subjects" -}}
- kind: ServiceAccount
  name: {{ include "finetune-operator.serviceAccountName" . }}
  namespace: {{ .Release.Namespace }}
{{- end }}
