{{- define "shipbell.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{/* A Service has no dots in its name, and begins with no digit. */}}
{{- define "shipbell.fullname" -}}
{{- $name := include "shipbell.name" . -}}
{{- $full := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $full = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $full = .Release.Name -}}
{{- end -}}
{{- regexReplaceAll "^([0-9])" ($full | replace "." "-") "shipbell-${1}" | trunc 52 | trimSuffix "-" -}}
{{- end }}

{{/* The Service with the port ops: one of its own where the other can be reached from outside the cluster. */}}
{{- define "shipbell.opsService" -}}
{{- include "shipbell.fullname" . }}{{ if ne .Values.service.type "ClusterIP" }}-ops{{ end -}}
{{- end }}

{{- define "shipbell.selectorLabels" -}}
app.kubernetes.io/name: {{ include "shipbell.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "shipbell.labels" -}}
{{ include "shipbell.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | quote }}
{{- end }}

{{- define "shipbell.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "shipbell.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{- define "shipbell.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{/* The Secret whose keys are mounted as files; empty when there is none. */}}
{{- define "shipbell.secretName" -}}
{{- if .Values.secrets.existingSecret -}}
{{- .Values.secrets.existingSecret -}}
{{- else if .Values.secrets.values -}}
{{- include "shipbell.fullname" . -}}
{{- end -}}
{{- end }}

{{/* A map as YAML without the keys that are null or "", for Helm drops nulls of a parent chart; empty when nothing is left. */}}
{{- define "shipbell.withoutEmpty" -}}
{{- $kept := dict -}}
{{- range $key, $value := . -}}
{{- if not (or (kindIs "invalid" $value) (and (kindIs "string" $value) (not $value))) -}}
{{- $_ := set $kept $key $value -}}
{{- end -}}
{{- end -}}
{{- if $kept }}{{ toYaml $kept }}{{ end -}}
{{- end }}

{{/* Whether the StatefulSet makes the claim for its volume. */}}
{{- define "shipbell.ownClaim" -}}
{{- if .Values.persistence.existingClaim -}}
{{- if not .Values.persistence.enabled -}}
{{- fail "persistence.existingClaim is not used while persistence.enabled is false: leave one of them out" -}}
{{- end -}}
{{- else if .Values.persistence.enabled -}}
true
{{- end -}}
{{- end }}

{{/* A size in bytes, as shipbell ("1.5 GiB") or Kubernetes ("1.5Gi") writes it; empty when it is neither. */}}
{{- define "shipbell.bytes" -}}
{{- $text := . | toString | nospace | lower -}}
{{- if regexMatch "^[0-9]+([.][0-9]+)?([kmgtpe]i?)?b?$" $text -}}
{{- $factors := dict "" 1 "k" 1e3 "m" 1e6 "g" 1e9 "t" 1e12 "p" 1e15 "e" 1e18
    "ki" 1024 "mi" 1048576 "gi" 1073741824 "ti" 1099511627776 "pi" 1125899906842624 "ei" 1152921504606846976 -}}
{{- $factor := get $factors (regexReplaceAll "[0-9.b]" $text "") -}}
{{- printf "%.0f" (mulf (regexFind "^[0-9.]+" $text) $factor) -}}
{{- end -}}
{{- end }}

{{/* What the bounds in `config` come to in bytes, after "The data folder" in docs/operating.md; empty when one can't be read. */}}
{{- define "shipbell.dataBytes" -}}
{{- $delivery := .Values.config.delivery | default dict -}}
{{- $journal := include "shipbell.bytes" ((.Values.config.journal | default dict).max_size | default "4GiB") -}}
{{- $letters := include "shipbell.bytes" ($delivery.dead_letters_max | default "1GiB") -}}
{{- $history := include "shipbell.bytes" ($delivery.history_max | default "1GiB") -}}
{{- if and $journal $letters $history -}}
{{- printf "%.0f" (addf $journal $letters (mulf 3 $history) (mulf 320 1048576)) -}}
{{- end -}}
{{- end }}

{{/*
One value as TOML on one line: of a list of the key, for messages, and the value. A JSON string is a TOML string. Numbers come
from YAML as floats; those without a fraction are TOML integers. TOML has no null: a key that has it is left out.
*/}}
{{- define "shipbell.tomlValue" -}}
{{- $path := first . -}}
{{- $value := last . -}}
{{- if kindIs "map" $value -}}
{{- $pairs := list -}}
{{- range $key, $inner := $value -}}
{{- if not (kindIs "invalid" $inner) -}}
{{- $inner = include "shipbell.tomlValue" (list (printf "%s.%s" $path $key) $inner) -}}
{{- $pairs = append $pairs (printf "%s = %s" (toJson $key) $inner) -}}
{{- end -}}
{{- end -}}
{{- if $pairs -}}
{ {{ join ", " $pairs }} }
{{- else -}}
{}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- $items := list -}}
{{- range $index, $inner := $value -}}
{{- $items = append $items (include "shipbell.tomlValue" (list (printf "%s.%d" $path $index) $inner)) -}}
{{- end -}}
[{{ join ", " $items }}]
{{- else if kindIs "invalid" $value -}}
{{- fail (printf "%s is null: take it out of the list" $path) -}}
{{- else if kindIs "float64" $value -}}
{{- if eq (floor $value) $value }}{{ int64 $value }}{{ else }}{{ $value }}{{ end -}}
{{- else -}}
{{- toJson $value -}}
{{- end -}}
{{- end }}

{{/* The keys of one table, a line each: of a list of its name, for messages, and the table. */}}
{{- define "shipbell.tomlKeys" -}}
{{- $path := first . -}}
{{- range $key, $value := last . }}
{{- if not (kindIs "invalid" $value) }}
{{ $key }} = {{ include "shipbell.tomlValue" (list (printf "%s.%s" $path $key) $value) }}
{{- end }}
{{- end }}
{{- end }}

{{/* Where the two listeners are, without the port: an IPv6 address has brackets there. */}}
{{- define "shipbell.listenHost" -}}
{{- $address := .Values.listenAddress | trimAll "[]" -}}
{{- if contains ":" $address }}[{{ $address }}]{{ else }}{{ $address }}{{ end -}}
{{- end }}

{{/* shipbell.toml: what the chart has to set, over what config says. */}}
{{- define "shipbell.toml" -}}
{{- $config := deepCopy .Values.config -}}
{{- $endpoints := $config.endpoints | default list -}}
{{- $ingest := $config.ingest | default dict -}}
{{- $ops := $config.ops | default dict -}}
{{- if hasKey $config "data_dir" -}}
{{- fail "config.data_dir is set by the chart: the volume is mounted at /var/lib/shipbell" -}}
{{- end -}}
{{- range $key := list "listen" "token_files" "allow_anonymous" -}}
{{- if hasKey $ingest $key -}}
{{- fail (printf "config.ingest.%s is set by the chart: use listenAddress, ingest.port, ingest.tokenKeys and ingest.allowAnonymous" $key) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $ingest "tokens" -}}
{{- fail "config.ingest.tokens would show the tokens in a ConfigMap: put them into secrets and name them in ingest.tokenKeys" -}}
{{- end -}}
{{- if hasKey $ops "listen" -}}
{{- fail "config.ops.listen is set by the chart: use listenAddress and ops.port" -}}
{{- end -}}
{{- $log := $config.log | default dict -}}
{{- if kindIs "bool" $log.level -}}
{{- if $log.level -}}
{{- fail "config.log.level: YAML takes this word for a truth, and no level is called so: write off, error, warn, info, debug or trace" -}}
{{- end -}}
{{- $_ := set $log "level" "off" -}}
{{- end -}}
{{- $host := include "shipbell.listenHost" . -}}
{{- $_ := set $ingest "listen" (printf "%s:%d" $host (int .Values.ingest.port)) -}}
{{- $_ := set $ops "listen" (printf "%s:%d" $host (int .Values.ops.port)) -}}
{{- if .Values.ingest.allowAnonymous -}}
{{- $_ := set $ingest "allow_anonymous" true -}}
{{- else -}}
{{- if not (include "shipbell.secretName" .) -}}
{{- fail "the registry needs a token to show: set secrets.existingSecret, or secrets.values.ingest-token, or ingest.allowAnonymous=true" -}}
{{- end -}}
{{- $files := list -}}
{{- range .Values.ingest.tokenKeys -}}
{{- if and (not $.Values.secrets.existingSecret) (not (hasKey $.Values.secrets.values .)) -}}
{{- fail (printf "ingest.tokenKeys names %q, which is not in secrets.values" .) -}}
{{- end -}}
{{- $files = append $files (printf "/run/secrets/shipbell/%s" .) -}}
{{- end -}}
{{- $_ := set $ingest "token_files" $files -}}
{{- end -}}
{{- $_ := set $config "ingest" $ingest -}}
{{- $_ := set $config "ops" $ops -}}
data_dir = "/var/lib/shipbell"
{{- range $section, $keys := omit $config "endpoints" }}
{{- if $keys }}

[{{ $section }}]
{{- include "shipbell.tomlKeys" (list (printf "config.%s" $section) $keys) }}
{{- end }}
{{- end }}
{{- range $index, $endpoint := $endpoints }}

[[endpoints]]
{{- include "shipbell.tomlKeys" (list (printf "config.endpoints.%d" $index) $endpoint) }}
{{- end }}
{{- end }}

{{/* How the two listeners are spoken to. */}}
{{- define "shipbell.ingestScheme" -}}
{{- if (.Values.config.ingest | default dict).tls_cert_file }}https{{ else }}http{{ end -}}
{{- end }}
{{- define "shipbell.opsScheme" -}}
{{- if (.Values.config.ops | default dict).tls_cert_file }}https{{ else }}http{{ end -}}
{{- end }}

{{/* Seconds that the pod gets to end: `shutdown.deadline`, the twenty that shipbell takes at most after it, and five more. */}}
{{- define "shipbell.terminationGracePeriodSeconds" -}}
{{- if not (kindIs "invalid" .Values.terminationGracePeriodSeconds) -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- else -}}
{{- $deadline := (.Values.config.shutdown | default dict).deadline -}}
{{- if kindIs "invalid" $deadline -}}
{{- $deadline = "20s" -}}
{{- end -}}
{{- if not (kindIs "string" $deadline) -}}
{{- fail (printf "config.shutdown.deadline = %v has no unit: write \"%vs\" for seconds" $deadline $deadline) -}}
{{- else if regexMatch "^[0-9]+s$" $deadline -}}
{{- add (trimSuffix "s" $deadline | atoi) 25 -}}
{{- else if regexMatch "^[0-9]+m$" $deadline -}}
{{- add (mul (trimSuffix "m" $deadline | atoi) 60) 25 -}}
{{- else -}}
{{- fail (printf "the chart can't read config.shutdown.deadline = %q: write whole seconds (\"20s\") or minutes (\"2m\"), or set terminationGracePeriodSeconds" $deadline) -}}
{{- end -}}
{{- end -}}
{{- end }}
