{{- define "lowdose.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "lowdose.labels" -}}
app.kubernetes.io/name: lowdose-node
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "lowdose.secret" -}}
{{- if .Values.existingSecret }}{{ .Values.existingSecret }}{{ else }}{{ include "lowdose.name" . }}-settings{{ end }}
{{- end }}

{{/* One role on pods with names and disks of their own. Arguments: root, role, values, ports, startup. */}}
{{- define "lowdose.set" -}}
{{- $root := .root }}
{{- $name := printf "%s-%s" (include "lowdose.name" $root) .role }}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $name }}
  labels:
    {{- include "lowdose.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  serviceName: {{ $name }}-pods
  replicas: {{ .values.replicas }}
  # Pods do not wait for each other; a name is one pod at a time, as the ledger wants it.
  podManagementPolicy: Parallel
  selector:
    matchLabels:
      app.kubernetes.io/instance: {{ $root.Release.Name }}
      app.kubernetes.io/component: {{ .role }}
  template:
    metadata:
      labels:
        {{- include "lowdose.labels" $root | nindent 8 }}
        app.kubernetes.io/component: {{ .role }}
      annotations:
        # Other settings, other pods: one after the other.
        checksum/settings: {{ $root.Values.settings | sha256sum }}
    spec:
      terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
      automountServiceAccountToken: false
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      {{- with .values.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              app.kubernetes.io/instance: {{ $root.Release.Name }}
              app.kubernetes.io/component: {{ .role }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile: {type: RuntimeDefault}
      containers:
        - name: {{ .role }}
          image: "{{ $root.Values.image.repository }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}"
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [run, -c, /etc/lowdose/settings/node.toml, --role, {{ .role }}]
          env:
            - name: LOWDOSE_NODE__NAME
              valueFrom: {fieldRef: {fieldPath: metadata.name}}
            - {name: LOWDOSE_NODE__DATA_DIR, value: /var/lib/lowdose}
            - {name: LOWDOSE_METRICS__PORT, value: {{ $root.Values.metrics.port | quote }}}
            # Probes come from outside the pod.
            - {name: LOWDOSE_METRICS__BIND, value: "0.0.0.0"}
          {{- with $root.Values.environmentSecrets }}
          envFrom:
            {{- range . }}
            - secretRef: {name: {{ . }}}
            {{- end }}
          {{- end }}
          ports:
            {{- with .ports }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            - {name: metrics, containerPort: {{ $root.Values.metrics.port }}}
          # A worker loads its weights, a ledger may be far away: minutes, before anybody restarts it.
          startupProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 5
            failureThreshold: 60
          livenessProbe:
            httpGet: {path: /healthz, port: metrics}
            periodSeconds: 15
            timeoutSeconds: 5
            failureThreshold: 6
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 5
            timeoutSeconds: 3
            failureThreshold: 3
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: settings, mountPath: /etc/lowdose/settings, readOnly: true}
            - {name: data, mountPath: /var/lib/lowdose}
            - {name: tmp, mountPath: /tmp}
            {{- range $root.Values.certificateSecrets }}
            - {name: certificate-{{ . }}, mountPath: /etc/lowdose/{{ . }}, readOnly: true}
            {{- end }}
            {{- if $root.Values.sharedFolder.existingClaim }}
            - {name: objects, mountPath: /srv/lowdose}
            {{- end }}
      volumes:
        - name: settings
          secret: {secretName: {{ include "lowdose.secret" $root }}, defaultMode: 0440}
        - {name: tmp, emptyDir: {}}
        {{- range $root.Values.certificateSecrets }}
        - name: certificate-{{ . }}
          secret: {secretName: {{ . }}, defaultMode: 0440}
        {{- end }}
        {{- if $root.Values.sharedFolder.existingClaim }}
        - name: objects
          persistentVolumeClaim: {claimName: {{ $root.Values.sharedFolder.existingClaim }}}
        {{- end }}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .values.storage.className }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests: {storage: {{ .values.storage.size }}}
{{- end }}
