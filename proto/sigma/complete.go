package sigma

// Complete is a schema that has whatever a rule asks for: what does not compile with it is
// wrong in itself, whoever would supply its fields.
func Complete(r *Rule) Schema {
	s := Source{Of: "any", Category: r.Category, Service: r.Service, Fields: map[string]int{}, Text: []int{0}}
	for _, name := range r.order {
		for _, items := range r.searches[name].any {
			for _, i := range items {
				if _, known := s.Fields[i.field]; !known {
					s.Fields[i.field] = len(s.Fields) + 1
				}
			}
		}
	}
	return Schema{s}
}
