{{/* Names are fixed: sidecars, certificates and the operator know each other by them, and there is one mesh in a cluster. */}}
{{- define "meshwright.labels" -}}
app.kubernetes.io/name: meshwright
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "meshwright.selector" -}}
app.kubernetes.io/name: meshwright
app.kubernetes.io/component: operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* An image of a part's values, by digest if there is one: what a digest names can't change behind it. */}}
{{- define "meshwright.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .version }}
{{- end -}}
{{- end }}

{{- define "meshwright.operatorImage" -}}
{{ include "meshwright.image" (dict "image" .Values.operator.image "version" .Chart.AppVersion) }}
{{- end }}

{{- define "meshwright.sidecarImage" -}}
{{ include "meshwright.image" (dict "image" .Values.sidecar.image "version" .Chart.AppVersion) }}
{{- end }}

{{- define "meshwright.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Of every pod of the chart: no name in the image, no rights, no writing. */}}
{{- define "meshwright.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "meshwright.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* The seconds of a duration such as 1h30m. */}}
{{- define "meshwright.seconds" -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll "[0-9]+(ms|h|m|s)" . -1 -}}
{{- $each := get (dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001) (regexFind "[a-z]+$" .) -}}
{{- $seconds = addf $seconds (mulf (regexFind "^[0-9]+" . | float64) $each) -}}
{{- end -}}
{{- int64 $seconds -}}
{{- end }}
