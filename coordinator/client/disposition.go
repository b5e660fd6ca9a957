package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/pack"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxDisposed is how many hosts are told of one incident.
const maxDisposed = 256

// CloseIncident closes one incident. The request must carry an idempotency key, and brings what its hosts
// are to be told, from Dispositions, or nothing.
func (c *Client) CloseIncident(ctx context.Context, req *operatorv1.CloseIncidentRequest) (*operatorv1.CloseIncidentResponse, error) {
	return call(ctx, c, api.CloseIncident, req)
}

// Dispositions signs, for each host of an incident, what its findings were, as far as the host told them
// because of how odd they were: that is what a sensor can learn from; of one host the newest, as many as a sensor
// remembers. The key never leaves this process. Beyond 256 hosts the others are counted as left out.
func (c *Client) Dispositions(of *operatorv1.GetIncidentResponse, malicious bool) (signed []*sensorv1.SignedDisposition, leftOut int, err error) {
	odd := make(map[string][]string)
	var hosts []string
	for _, row := range of.GetFindings() {
		host := row.GetHost()
		if row.GetFinding().GetPValue() <= 0 || len(odd[host]) >= pack.MaxDisposed {
			continue
		}
		if odd[host] == nil {
			hosts = append(hosts, host)
		}
		odd[host] = append(odd[host], row.GetFinding().GetId())
	}
	if len(hosts) > maxDisposed {
		leftOut, hosts = len(hosts)-maxDisposed, hosts[:maxDisposed]
	}
	now := time.Now()
	for _, host := range hosts {
		slices.Sort(odd[host])
		one, err := pack.SignDisposition(c.id.signer, c.id.chain(), &sensorv1.Disposition{
			Id: NewID("dsp"), ClusterId: c.id.cluster, Host: host, Incident: of.GetIncident().GetId(), Malicious: malicious, Findings: slices.Compact(odd[host]),
			Operator: c.operator, IssuedAt: now.UnixNano(), NotAfter: now.Add(pack.UnlearnFor).UnixNano(),
		})
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		signed = append(signed, one)
	}
	return signed, leftOut, nil
}
