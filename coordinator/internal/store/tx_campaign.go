package store

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Campaign reads a campaign, nil when there is none.
func (tx *Tx) Campaign(id string) (c *raftv1.Campaign, err error) {
	err = tx.rows("SELECT body FROM campaigns WHERE id = ?", func(v []val) error {
		c = &raftv1.Campaign{}
		return proto.Unmarshal(asBlob(v[0]), c)
	}, id)
	return c, err
}

// PutCampaign stores a campaign whole.
func (tx *Tx) PutCampaign(c *raftv1.Campaign) error {
	body, err := encode(c)
	if err != nil {
		return fmt.Errorf("encoding campaign: %w", err)
	}
	closed := int64(0)
	if c.GetStatus() == "closed" {
		closed = tx.Time
	}
	_, err = tx.exec(`INSERT INTO campaigns (id, status, last_seen, closed_at, body) VALUES (?1, ?2, ?3, ?4, ?5)
		ON CONFLICT (id) DO UPDATE SET status = ?2, last_seen = ?3, closed_at = ?4, body = ?5`,
		c.GetId(), c.GetStatus(), c.GetLastSeen(), closed, body)
	return err
}
