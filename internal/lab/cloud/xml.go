package cloud

import (
	"bytes"
	"encoding/xml"
	"net/http"
)

// The services of one endpoint speak two dialects. EC2:
// <ActionResponse><requestId/>…fields…</ActionResponse>, lists are <item>s (EC2 developer guide,
// "EC2 Query API: responses"). Auto Scaling,
// Elastic Load Balancing and STS:
// <ActionResponse><ActionResult>…</ActionResult><ResponseMetadata/></ActionResponse>, lists are
// <member>s.

// meta is embedded in every answer of EC2.
type meta struct {
	RequestID string `xml:"requestId"`
}

func (m *meta) setRequestID(id string) { m.RequestID = id }

// done is the answer to EC2 calls that only say that all went well.
type done struct {
	meta
	Return bool `xml:"return"`
}

type items[T any] struct {
	Items []T `xml:"item"`
}

type members[T any] struct {
	Items []T `xml:"member"`
}

type tagXML struct {
	Key   string `xml:"key"`
	Value string `xml:"value"`
}

func tagSet(tags map[string]string) items[tagXML] {
	var out items[tagXML]
	for _, key := range sortedKeys(tags) {
		out.Items = append(out.Items, tagXML{key, tags[key]})
	}
	return out
}

// namespace returns the XML namespace of a service; "" for one that the lab does not have.
func namespace(service string) string {
	switch service {
	case "ec2":
		return "http://ec2.amazonaws.com/doc/2016-11-15/"
	case "autoscaling":
		return "http://autoscaling.amazonaws.com/doc/2011-01-01/"
	case "elasticloadbalancing":
		return "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/"
	case "s3":
		return "http://s3.amazonaws.com/doc/2006-03-01/"
	case "sts":
		return "https://sts.amazonaws.com/doc/2011-06-15/"
	}
	return ""
}

// encodeAnswer renders the result of an action.
func encodeAnswer(service, action, requestID string, result any) ([]byte, error) {
	root := xml.StartElement{Name: xml.Name{Local: action + "Response"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: namespace(service)}}}
	if r, ok := result.(interface{ setRequestID(string) }); ok {
		r.setRequestID(requestID)
		return encode(func(e *xml.Encoder) error { return e.EncodeElement(result, root) })
	}
	return encode(func(e *xml.Encoder) error {
		if err := e.EncodeToken(root); err != nil {
			return err
		}
		if result != nil {
			if err := e.EncodeElement(result, xml.StartElement{Name: xml.Name{Local: action + "Result"}}); err != nil {
				return err
			}
		}
		metadata := struct{ RequestId string }{requestID}
		if err := e.EncodeElement(metadata, xml.StartElement{Name: xml.Name{Local: "ResponseMetadata"}}); err != nil {
			return err
		}
		return e.EncodeToken(root.End())
	})
}

// encodeError renders an error in the service's own form.
func encodeError(service, requestID string, apiErr *apiError) ([]byte, error) {
	type detail struct {
		Type    string `xml:",omitempty"`
		Code    string
		Message string
	}
	if service == "ec2" {
		doc := struct {
			XMLName   xml.Name `xml:"Response"`
			Errors    []detail `xml:"Errors>Error"`
			RequestID string
		}{Errors: []detail{{Code: apiErr.Code, Message: apiErr.Message}}, RequestID: requestID}
		return encode(func(e *xml.Encoder) error { return e.Encode(doc) })
	}
	fault := "Sender"
	if apiErr.Status >= http.StatusInternalServerError {
		fault = "Receiver"
	}
	doc := struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Error     detail
		RequestId string
	}{Error: detail{fault, apiErr.Code, apiErr.Message}, RequestId: requestID}
	return encode(func(e *xml.Encoder) error { return e.Encode(doc) })
}

func encode(write func(*xml.Encoder) error) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(xml.Header)
	e := xml.NewEncoder(&b)
	if err := write(e); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
